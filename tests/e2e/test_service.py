"""What a daemon tells the service manager, and what it keeps to itself when something hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from testbed.etcd import Etcd
from testbed.freeze import freeze
from testbed.process import Process, thread_ids
from testbed.wait import wait_until
from tests.e2e.manager import Manager
from tests.e2e.single_host import SingleHost

pytestmark = pytest.mark.root

PREFIX = "/coreos.com/network"


Start = Callable[..., Process]


@pytest.fixture
def start(host: SingleHost, manager: Manager) -> Start:
    """Starts a daemon that tells `manager`."""

    def start(*options: str, path_first: str = "") -> Process:
        path = os.pathsep.join(filter(None, [path_first, os.environ["PATH"]]))
        return host.space.start(
            *host.run_command(*options),
            log=host.directory / "tunneld.log",
            env={**host.environment, **manager.environment, "PATH": path},
        )

    return start


def put_config(etcd: Etcd) -> None:
    etcd.put(f"{PREFIX}/config", '{"Network":"10.5.0.0/16"}')


def test_state_is_shown_in_words_from_the_first_wait_to_the_end(
    host: SingleHost, etcd: Etcd, manager: Manager, start: Start
) -> None:
    etcd.stop()
    daemon = start()
    manager.wait_for(r"^STATUS=waiting for the network config: store: ")
    etcd.start()
    waiting = manager.wait_for(r"^STATUS=waiting for the network config$")
    put_config(etcd)
    forwarding = manager.wait_for(r"^STATUS=forwarding, 10\.5\.\d+\.0/24 on flannel0, 0 peers$")
    ready = manager.wait_for(r"^READY=1$")
    assert waiting < forwarding < ready
    etcd.stop()
    degraded = manager.wait_for(r"^STATUS=degraded: store: .* \(forwarding, ", ready)
    manager.wait_for(r"^WATCHDOG=1$", degraded)
    assert daemon.stop() == 0
    stopping = manager.wait_for(r"^STOPPING=1$", degraded)
    assert manager.told()[stopping + 1 :].count("WATCHDOG=1") == 0


@pytest.mark.parametrize("thread", ["main", "outbound", "inbound", "both"])
def test_watchdog_is_fed_no_more_once_a_thread_hangs(
    host: SingleHost, etcd: Etcd, manager: Manager, start: Start, thread: str
) -> None:
    put_config(etcd)
    daemon = start("--threads", "joint" if thread == "both" else "split")
    ready = manager.wait_for(r"^READY=1$")
    manager.wait_for(r"^WATCHDOG=1$", ready)
    names = {"main": "", "outbound": "tunneld-out", "inbound": "tunneld-in", "both": "tunneld-both"}
    threads = wait_until(lambda: thread_ids(daemon.pid, names[thread]), what=f"thread {thread}")
    freezer = freeze(threads[0], host.directory / "freeze.log")
    try:
        manager.falls_silent()
        if thread != "main":
            daemon.wait_for_output("something hangs")
            assert f"thread {thread} 0" in daemon.output()
        # As systemd would: the daemon must be killable in this state, and say where it hung.
        daemon.signal(signal.SIGABRT)
        assert daemon.wait() == -signal.SIGABRT
    finally:
        daemon.kill()
        assert freezer.wait() == 0


def test_program_that_hangs_is_named_and_ended_and_the_daemon_lives_on(
    host: SingleHost, etcd: Etcd, manager: Manager, start: Start
) -> None:
    put_config(etcd)
    hangs = host.directory / "hangs"
    programs = host.directory / "bin"
    programs.mkdir()
    nft = programs / "nft"
    nft.write_text(
        f"#!/bin/sh\nwhile [ -e {hangs} ]; do sleep 0.1; done\n"
        f'PATH={os.environ["PATH"]} exec nft "$@"\n'
    )
    nft.chmod(0o755)
    daemon = start(path_first=str(programs))
    manager.wait_for(r"^READY=1$")
    hangs.touch()
    host.space.run("nft", "flush", "ruleset")
    daemon.wait_for_output("nft has not ended for 10 s and was killed")
    manager.wait_for(r"^WATCHDOG=1$", len(manager.told()))
    manager.wait_for("^STATUS=degraded: cannot .*: nft has not ended", 0)
    hangs.unlink()
    manager.wait_for("^STATUS=forwarding", len(manager.told()))
    hangs.touch()
    host.space.run("nft", "flush", "ruleset")
    # Within its time limit, though nft answers to nothing.
    assert daemon.stop() == 0


def test_reload_puts_the_logs_form_in_force_and_names_what_waits(
    host: SingleHost, etcd: Etcd, manager: Manager, start: Start
) -> None:
    put_config(etcd)
    config = host.directory / "tunneld.toml"
    config.write_text('log-level = "info"\n')
    daemon = start("--config", str(config))
    ready = manager.wait_for(r"^READY=1$")

    config.write_text('log-level = "debug"\nlog-format = "json"\nworkers = 2\n')
    daemon.signal(signal.SIGHUP)
    reloading = manager.wait_for(r"^RELOADING=1\nMONOTONIC_USEC=\d+$", ready)
    manager.wait_for(r"^READY=1$", reloading)
    assert '"message":"the options have been read anew"' in daemon.output()
    assert '"option":["workers"]' in daemon.output()

    config.write_text("log-level = 7\n")
    daemon.signal(signal.SIGHUP)
    reloading = manager.wait_for(r"^RELOADING=1", reloading + 1)
    manager.wait_for(r"^READY=1$", reloading)
    assert "the options are not usable; those in force stay" in daemon.output()
    assert daemon.exit_status is None
    assert daemon.stop() == 0


def test_reload_before_ready_is_no_ready(
    host: SingleHost, etcd: Etcd, manager: Manager, start: Start
) -> None:
    daemon = start()
    manager.wait_for(r"^STATUS=waiting for the network config$")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_output("the options have been read anew")
    assert not [text for text in manager.told() if text.startswith(("READY", "RELOADING"))]
    assert daemon.stop() == 0
