"""What the host room does while no file descriptor is free: it says so, and works again after."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from testbed.descriptors import none_free
from testbed.netns import Namespace
from tests.unit.host.conftest import run_inside
from tunneld.errors import HostError
from tunneld.host import families, monitor
from tunneld.host.firewall import xtables
from tunneld.host.monitor import Monitor
from tunneld.host.netlink import Link
from tunneld.host.notify import Notifier
from tunneld.host.xtables_lock import XtablesLock

LOOPBACK = IPv4Address("127.0.0.1")


def test_service_manager_is_told_on(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as bound:
        bound.bind(name)
        notifier, late = Notifier(name), Notifier(name)
        notifier.ready()
        with none_free():
            notifier.watchdog()
            late.watchdog()
        assert late.problem is not None
        assert "Too many open files" in late.problem
        late.watchdog()
        assert not notifier.problem
        assert not late.problem
        assert [bound.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        notifier.close()
        late.close()


def test_lack_of_a_service_manager_is_one_line_however_often_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    for _ in range(100):
        notifier.watchdog()
    assert len(caplog.records) == 1
    notifier.close()


def test_refusals_are_errors_of_the_host() -> None:
    link = Link(
        index=1,
        name="lo",
        mtu_bytes=65536,
        txqueuelen=0,
        is_up=True,
        is_loopback=True,
        is_multicast=False,
        forwarding=False,
    )
    with none_free(), pytest.raises(HostError, match="Too many open files"):
        families.set_ipv4_forwarding(link, False)


def test_names_of_the_tables_of_iptables_legacy_are_an_error_of_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(xtables, "_LEGACY_TABLES", {4: tmp_path / "names"})
    (tmp_path / "names").touch()
    with none_free(), pytest.raises(HostError, match="Too many open files"):
        xtables._legacy_tables(4)


@pytest.mark.root
def test_without_an_inotify_instance_the_kernel_is_watched_all_the_same(
    space: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_args: object) -> XtablesLock:
        raise OSError(24, os.strerror(24))

    async def work() -> None:
        monkeypatch.setattr(monitor, "XtablesLock", refused)
        watching = Monitor(lambda _notice: None)
        try:
            assert watching.problem is not None
            assert "raise fs.inotify.max_user_instances" in watching.problem
            watching.watch_lock()
            monkeypatch.undo()
            watching.watch_lock()
            assert watching.problem is None
        finally:
            watching.close()

    with caplog.at_level(logging.INFO, logger="tunneld.host"):
        run_inside(space, work)
    assert [record.message for record in caplog.records] == [
        "runs of iptables-legacy are not noticed at once",
        "runs of iptables-legacy are noticed again",
    ]
