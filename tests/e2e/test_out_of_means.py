"""A daemon that runs out of what passes by itself: descriptors, and a reader of its log.

Needs root, etcd and iproute2.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess

import pytest

from testbed.descriptors import none_free_in
from testbed.etcd import Etcd
from testbed.netns import Rig
from testbed.network import PREFIX, Network, pings
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost, only_line

pytestmark = pytest.mark.root

PATIENCE_S = 30.0


def test_daemon_without_a_free_descriptor_goes_on_and_puts_back_what_it_can_later(
    root_tools: None, rig: Rig
) -> None:
    network = Network(rig)
    first, second = network.add("t1"), network.add("t2")
    network.wait_connected()
    said = "too many open files"

    def rules() -> str:
        return first.space.run("nft", "list", "ruleset")

    before = rules()
    with none_free_in(first.running.pid):
        first.space.run("nft", "flush", "ruleset")
        first.subnet_file.unlink()
        first.space.run("ip", "link", "set", "flannel0", "down")
        wait_until(lambda: said in first.running.output().lower(), PATIENCE_S, "a line in the log")
        assert first.running.exit_status is None
    wait_until(lambda: rules() == before, PATIENCE_S, "the rules")
    wait_until(first.subnet_file.exists, PATIENCE_S, "subnet.env")
    wait_until(lambda: pings(first, second), PATIENCE_S, "the way to the peer")
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "a host that is ready")
    assert first.running.exit_status is None
    assert "Traceback" not in first.running.output()


def test_reader_of_the_log_that_has_stopped_holds_nobody_up(host: SingleHost, etcd: Etcd) -> None:
    etcd.put(f"{PREFIX}/config", '{"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}')
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    daemon = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{host.space.name}", *host.run_command("--log-level=debug")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writing,
        env=host.environment,
    )
    try:
        os.set_blocking(writing, False)
        own = os.dup(writing)
        lease = f"{PREFIX}/subnets/10.5.77.0-24"
        host.wait_ready()

        def full() -> bool:
            try:
                return os.write(own, b"x\n") < 0
            except BlockingIOError:
                return True

        wait_until(full, PATIENCE_S, "a full pipe")
        os.set_blocking(writing, True)
        etcd.put(lease, "garbage")  # a line in the log
        told = "nobody reads the log"
        wait_until(
            lambda: any(told in line for line in host.status()["problems"]),
            PATIENCE_S,
            "a log that is known to be unread",
        )
        host.subnet_file.unlink()
        wait_until(host.subnet_file.exists, PATIENCE_S, "subnet.env")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_S * 3) == 0
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        for fd in (reading, writing, own):
            os.close(fd)


RIGHTS = "+net_admin,+net_raw,+dac_override"
NOBODY_ELSES = 64_998
"""The kernel counts the threads of a user, of whatever program; root may have any number."""


AS_NOBODY_ELSE = ("setpriv", f"--reuid={NOBODY_ELSES}", "--clear-groups")


def with_at_most(threads: int) -> tuple[str, ...]:
    """Begins a command line: what follows may have so many threads, itself included."""
    rights = (f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}")
    return (*AS_NOBODY_ELSE, *rights, "prlimit", f"--nproc={threads}:200", "--")


def test_daemon_that_gets_no_thread_says_so_in_a_line_or_waits_for_it(
    host: SingleHost, etcd: Etcd
) -> None:
    etcd.put(f"{PREFIX}/config", '{"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}')
    for threads in (1, 2, 7, 8):
        ended = host.daemon_ends(wrapper=with_at_most(threads))
        assert ended.returncode == 1
        assert "cannot start a thread to" in only_line(ended)
        assert "ulimit -u" in only_line(ended)
        assert "Traceback" not in ended.stderr
    # What the start itself needs is there, and nothing for programs and the data path.
    daemon = host.space.start(
        *with_at_most(9),
        *host.run_command(),
        log=host.directory / "tunneld.log",
        env=host.environment,
    )
    wait_until(host.control_socket.exists, PATIENCE_S, "a control socket")

    def lacks() -> bool:
        status = host.status()
        said = "Resource temporarily unavailable"
        return status["store"]["connected"] and any(said in line for line in status["problems"])

    wait_until(lacks, PATIENCE_S, "a daemon that names what it lacks")
    more = ("prlimit", f"--pid={daemon.pid}", "--nproc=200:200")
    subprocess.run([*AS_NOBODY_ELSE, *more], check=True)
    host.wait_ready()
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.output()


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_daemon_whose_standard_streams_are_closed_runs_and_stops_as_any(
    host: SingleHost, closed: str
) -> None:
    command = shlex.join(host.run_command())
    daemon = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{host.space.name}", "sh", "-c", f"exec {command} {closed}"],
        env=host.environment,
    )
    try:
        wait_until(host.control_socket.exists, PATIENCE_S, "a control socket")
        wait_until(lambda: host.status()["state"] == "starting", PATIENCE_S, "a status")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_S * 3) == 0
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
