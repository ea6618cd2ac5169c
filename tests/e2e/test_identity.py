"""Hosts whose state directory was copied, lost, damaged, or lies on a disk that takes nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.etcd import Etcd
from testbed.netns import Rig
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX
from tunneld.control.client import NotRunningError

pytestmark = pytest.mark.root

CONFIG = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'


def leases(etcd: Etcd) -> dict[str, str]:
    """Returns the address by subnet, as the store has them."""
    entries = etcd.everything(f"{PREFIX}/subnets/")
    return {
        name.rpartition("/")[2]: json.loads(value)["PublicIP"] for name, value in entries.items()
    }


def subnet(status: dict[str, Any]) -> str:
    found: str = status["lease"]["subnet"]
    return found


def test_copied_state_directory_makes_a_second_node_and_a_lost_one_keeps_the_subnet(
    host: SingleHost, etcd: Etcd, rig: Rig
) -> None:
    etcd.put(f"{PREFIX}/config", CONFIG)
    original = host.start_daemon()
    first = host.wait_ready()
    clone = SingleHost(rig, beside=host)
    shutil.copytree(host.directory / "state", clone.directory / "state")
    copied = clone.start_daemon()
    second = clone.wait_ready()

    assert subnet(first) != subnet(second)
    assert first["node_id"] != second["node_id"]
    copied.wait_for_output("the state directory is a copy of another host's")
    original.wait_for_output("another host asked for the lease of this one")
    # The VTEP's Ethernet address was copied too: as long as both had it, neither was reached.
    wait_until(lambda: host.status()["peers"], 20.0, "the clone among the peers")
    assert [peer["subnet"] for peer in host.status()["peers"]] == [subnet(second)]
    held = leases(etcd)
    assert sorted(held.values()) == sorted([str(host.address), str(clone.address)])

    assert (copied.stop(), original.stop()) == (0, 0)
    shutil.rmtree(host.directory / "state")
    host.subnet_file.unlink()
    again, other = host.start_daemon(), clone.start_daemon()
    assert subnet(host.wait_ready()) == subnet(first)
    assert subnet(clone.wait_ready()) == subnet(second)
    assert leases(etcd) == held, "one lease a host"
    assert (again.stop(), other.stop()) == (0, 0)


@pytest.fixture
def full_disk(host: SingleHost) -> Iterator[Path]:
    """The state directory of the host on a file system of its own; `fill` it."""
    disk = host.directory / "state"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "junk").open("wb", buffering=0) as file:
        while True:
            file.write(b"\x00" * 4096)


def test_full_disk_and_damaged_files_keep_no_host_from_forwarding_or_leaving(
    host: SingleHost, etcd: Etcd, full_disk: Path
) -> None:
    etcd.put(f"{PREFIX}/config", CONFIG)
    daemon = host.start_daemon()
    first = host.wait_ready()
    assert daemon.stop() == 0
    (full_disk / "network.json").write_text("[" * 9_999)
    host.subnet_file.write_text(f"FLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU={'9' * 5_000}\n")
    fill(full_disk)

    daemon = host.start_daemon()

    def degraded() -> dict[str, Any]:
        with contextlib.suppress(NotRunningError):
            if (now := host.status())["state"] == "degraded":
                return now
        return {}

    status = wait_until(degraded, 30.0, "a daemon that forwards, and names the disk")
    assert any("No space left on device" in line for line in status["problems"])
    assert (subnet(status), status["node_id"]) == (subnet(first), first["node_id"])
    assert f"FLANNEL_SUBNET={subnet(first).replace('.0/', '.1/')}" in host.subnet_file.read_text()

    # What leaving takes away beside the lease cannot be taken away either.
    host.subnet_file.unlink()
    host.subnet_file.mkdir()
    done = host.tunneld("leave", "--control-socket", str(host.control_socket))
    assert done.returncode == 0, done.stderr
    assert daemon.wait() == 0
    assert leases(etcd) == {}
    with pytest.raises(NotRunningError):
        host.status()


def test_lease_that_was_lost_while_the_disk_was_full_or_nobody_ran_is_left_and_told_of(
    host: SingleHost, etcd: Etcd, full_disk: Path
) -> None:
    def give_away(held: str) -> None:
        key = f"{PREFIX}/subnets/{held.replace('/', '-')}"
        etcd.put(key, '{"PublicIP":"192.0.2.250","BackendType":"vxlan"}')

    def moved_from(held: str) -> dict[str, Any]:
        with contextlib.suppress(NotRunningError):
            status = host.status()
            if status["lease"]["subnet"] not in (None, held):
                return status
        return {}

    etcd.put(f"{PREFIX}/config", CONFIG)
    daemon = host.start_daemon()
    first = subnet(host.wait_ready())
    memory = full_disk / "network.json"
    wait_until(
        lambda: memory.exists() and first.replace("/", "-") in memory.read_text(), 20.0, "memory"
    )
    fill(full_disk)
    give_away(first)
    second = subnet(wait_until(lambda: moved_from(first), 30.0, "another subnet"))
    told = f"former subnet {first}, which 192.0.2.250 has leased"
    daemon.wait_for_output(told)
    wait_until(
        lambda: second.replace(".0/", ".1/") in host.subnet_file.read_text(), 20.0, "subnet.env"
    )
    assert daemon.stop() == 0

    # All that the disk knows is the former lease; without the store it must not be gone by.
    etcd.kill()
    daemon = host.start_daemon()
    daemon.wait_for_output("the remembered lease is not the one of subnet.env")
    (full_disk / "junk").unlink()
    etcd.start()
    assert subnet(host.wait_ready()) == second
    assert daemon.stop() == 0
    assert daemon.output().count(told) == 1

    give_away(second)
    daemon = host.start_daemon()
    third = subnet(host.wait_ready())
    assert third not in (first, second)
    daemon.wait_for_output(f"former subnet {second}, which 192.0.2.250 has leased")
    assert daemon.stop() == 0
