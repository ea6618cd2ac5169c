"""What somebody does to the overlay's device and to subnet.env, in every data path: put back.

Needs root, etcd and iproute2.
"""

from __future__ import annotations

import re

import pytest

from testbed.netns import Rig
from testbed.network import Host, Network, pings
from testbed.wait import wait_until

pytestmark = pytest.mark.root

PATIENCE_S = 30.0


def held(host: Host, device: str) -> tuple[str, ...]:
    """Returns all that the overlay's device carries, without what the kernel numbers."""

    def shown(*argv: str) -> str:
        said = host.space.try_run(*argv)
        return said.stdout if said.returncode == 0 else f"no {device}"

    link = shown("ip", "-d", "-o", "link", "show", device)
    return (
        re.sub(r"^\d+: | state \w+| qdisc \w+", "", link),
        re.sub(r"^\d+:", "", shown("ip", "-4", "-o", "address", "show", "dev", device)),
        shown("ip", "-4", "route", "show", "proto", "116"),
        shown("ip", "neighbour", "show", "dev", device, "nud", "permanent"),
        shown("nft", "list", "ruleset"),
        host.subnet_file.read_text() if host.subnet_file.exists() else "no subnet.env",
    )


@pytest.mark.parametrize(
    ("backend", "device", "options"),
    [
        ("udp", "flannel0", ("--workers", "2")),
        ("vxlan", "flannel.1", ()),
        ("vxlan", "flannel.1", ("--datapath", "kernel")),
    ],
    ids=["udp", "vxlan", "kernel vxlan"],
)
def test_device_and_file_are_put_back_whatever_is_done_to_them(
    root_tools: None, rig: Rig, backend: str, device: str, options: tuple[str, ...]
) -> None:
    network = Network(rig, backend={"Type": backend})
    first, second = network.add("t1", *options), network.add("t2", *options)
    network.wait_connected()
    before = held(first, device)
    elsewhere = rig.namespace("elsewhere")
    ip = ("ip", "link", "set", device)
    deeds: dict[str, tuple[tuple[str, ...], ...]] = {
        "deleted": (("ip", "link", "delete", device),),
        "renamed": ((*ip, "down"), (*ip, "name", "other0"), ("ip", "link", "set", "other0", "up")),
        "deleted again": (("ip", "link", "delete", device),),
        "subnet.env deleted": (("rm", str(first.subnet_file)),),
        "subnet.env cut": (("truncate", "-s", "40", str(first.subnet_file)),),
        "moved away": ((*ip, "netns", elsewhere.name),),
    }
    for what, commands in deeds.items():
        for command in commands:
            first.space.run(*command)
        try:
            wait_until(lambda: held(first, device) == before, PATIENCE_S, f"all that was {what}")
            wait_until(lambda: pings(first, second), PATIENCE_S, f"the way after {what}")
            wait_until(lambda: pings(second, first), PATIENCE_S, f"the way back after {what}")
        except TimeoutError as error:
            error.add_note("\n".join((*before, "now:", *held(first, device))))
            error.add_note(first.running.output()[-3000:])
            raise
    assert first.running.exit_status is None
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "a host that is ready")
    assert "other0" not in first.space.run("ip", "-o", "link")
    assert device not in elsewhere.run("ip", "-o", "link")


def test_underlay_too_narrow_for_any_packet_is_a_problem_and_no_error_of_status(
    root_tools: None, rig: Rig
) -> None:
    network = Network(rig)
    first, second = network.add("t1"), network.add("t2")
    network.wait_connected()
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "a host that is ready")
    first.space.run("ip", "link", "set", "eth0", "mtu", "90")

    def problems() -> list[str]:
        found: list[str] = first.status()["problems"]
        return found

    wait_until(lambda: any("MTU" in line for line in problems()), PATIENCE_S, "a line of status")
    status = first.status()
    assert (status["state"], status["backend"]["mtu_bytes"]) == ("degraded", None)
    first.space.run("ip", "link", "set", "eth0", "mtu", "1500")
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "a host that is ready")
    wait_until(lambda: pings(first, second), PATIENCE_S, "the way to the peer")
    assert first.running.exit_status is None
