from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from testbed.wait import PATIENCE
from tunneld.errors import HostError
from tunneld.host.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket and the NOTIFY_SOCKET that names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@tnt-h4-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as bound:
        bound.bind(name.replace("@", "\0", 1))
        bound.settimeout(10 * PATIENCE)
        yield bound, name


def test_each_call_is_one_datagram_as_sd_notify_defines_it(
    manager: tuple[socket.socket, str],
) -> None:
    bound, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    notifier.ready()
    assert bound.recv(1000) == b"READY=1"
    notifier.status("joined 10.5.1.0/24\nREADY=1")
    assert bound.recv(1000) == b"STATUS=joined 10.5.1.0/24 READY=1"
    notifier.watchdog()
    assert bound.recv(1000) == b"WATCHDOG=1"
    notifier.stopping()
    assert bound.recv(1000) == b"STOPPING=1"
    before_us = time.monotonic_ns() // 1000
    notifier.reloading()
    match = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", bound.recv(1000))
    assert match is not None
    assert before_us <= int(match[1]) <= time.monotonic_ns() // 1000
    notifier.close()


def test_without_a_socket_nothing_happens() -> None:
    notifier = Notifier.from_environment({})
    notifier.ready()
    assert notifier.watchdog_interval_s is None


@pytest.mark.parametrize("pid", [None, str(os.getpid())])
def test_watchdog_time_is_read_in_microseconds(pid: str | None) -> None:
    environment = {"WATCHDOG_USEC": "3000000"} | ({} if pid is None else {"WATCHDOG_PID": pid})
    assert Notifier.from_environment(environment).watchdog_interval_s == 3.0


def test_watchdog_of_another_process_is_not_ours() -> None:
    environment = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert Notifier.from_environment(environment).watchdog_interval_s is None


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "1.5"])
def test_watchdog_time_that_is_not_one_is_named(text: str) -> None:
    with pytest.raises(HostError, match="WATCHDOG_USEC is"):
        Notifier.from_environment({"WATCHDOG_USEC": text})


def test_relative_socket_is_refused() -> None:
    with pytest.raises(HostError, match="NOTIFY_SOCKET is 'run/notify'"):
        Notifier.from_environment({"NOTIFY_SOCKET": "run/notify"})


def test_manager_that_is_gone_costs_a_warning_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING, logger="tunneld"), closing(notifier):
        notifier.ready()
    assert [record.message for record in caplog.records] == ["cannot notify the service manager"]
