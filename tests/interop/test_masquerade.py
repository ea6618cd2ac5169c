"""Which source a packet arrives with is the same whichever daemon runs at either end.

The table holds what two real flannelds (v0.28.9, iptables) do; the first test holds them to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

import pytest

from testbed.exchange import json_lines, start_traffic
from testbed.netns import Namespace, Rig
from testbed.network import Host, Network
from testbed.process import Process
from testbed.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first may build flanneld

Place = Literal["container", "host", "outside"]
_ports = itertools.count(30_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Packets from a place of the one host to a place of the other, or to the world outside."""

    sender: Place
    receiver: Place
    to: str
    """The role of the address it is sent to."""
    seen: str
    """The role of the source it arrives with, without --ip-masq."""
    seen_masquerading: str
    """The same with --ip-masq."""
    bound_to: str | None = None
    """The role of the source address the sender asks for."""
    via: str | None = None
    """For a sender outside: the host it sends the packet to."""


FLOWS = {
    "container to container": Flow(
        sender="container",
        receiver="container",
        to="target container",
        seen="origin container",
        seen_masquerading="origin container",
    ),
    "container to host": Flow(
        sender="container",
        receiver="host",
        to="target overlay",
        seen="origin container",
        seen_masquerading="origin container",
    ),
    "container to bridge": Flow(
        sender="container",
        receiver="host",
        to="target bridge",
        seen="origin container",
        seen_masquerading="origin container",
    ),
    "host to container": Flow(
        sender="host",
        receiver="container",
        to="target container",
        seen="origin overlay",
        seen_masquerading="origin overlay",
    ),
    "container to outside": Flow(
        sender="container",
        receiver="outside",
        to="outside",
        seen="origin container",
        seen_masquerading="origin underlay",
    ),
    "container to the other host's underlay": Flow(
        sender="container",
        receiver="host",
        to="target underlay",
        seen="origin container",
        seen_masquerading="origin underlay",
    ),
    "outside to container": Flow(
        sender="outside",
        receiver="container",
        to="target container",
        via="target",
        seen="outside",
        seen_masquerading="outside",
    ),
    "host bound to its underlay to container": Flow(
        sender="host",
        receiver="container",
        to="target container",
        bound_to="origin underlay",
        seen="origin underlay",
        seen_masquerading="origin overlay",
    ),
}
FOREIGN_FLOWS = {
    "outside to container by the other host": Flow(
        sender="outside",
        receiver="container",
        to="target container",
        via="origin",
        seen="outside",
        seen_masquerading="origin overlay",
    ),
}
"""Flows whose source, left as it is, is none of the overlay: tunneld's source check drops those."""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "ip-masq"])
def network(
    request: pytest.FixtureRequest,
    interop_tools: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Network]:
    """Two hosts of each kind, with and without --ip-masq."""
    with Rig("masq", tmp_path_factory.mktemp("masq")) as rig:
        network = Network(rig, ip_masq=request.param)
        for name in ("f1", "f2", "t1", "t2"):
            network.add(name)
        network.wait_connected()
        yield network


def roles(network: Network, origin: Host, target: Host) -> dict[str, IPv4Address]:
    named = {"outside": network.outside}
    for end, host in (("origin", origin), ("target", target)):
        named |= {
            f"{end} container": host.container_ip,
            f"{end} overlay": host.overlay_ip,
            f"{end} bridge": host.gateway,
            f"{end} underlay": host.public_ip,
        }
    return named


def place(network: Network, host: Host, where: Place) -> Namespace:
    return {"container": host.container, "host": host.space, "outside": network.switch}[where]


def listen(network: Network, target: Host, flow: Flow, port: int) -> Process:
    receiver = start_traffic(place(network, target, flow.receiver), "receive-sources", port)
    receiver.wait_for_output("listening")
    return receiver


def send(network: Network, origin: Host, target: Host, flow: Flow, port: int) -> None:
    """Sends one packet of `flow`."""
    named = roles(network, origin, target)
    if flow.via is not None:
        router = origin if flow.via == "origin" else target
        network.switch.run(
            *("ip", "route", "replace", str(target.subnet), "via", str(router.public_ip))
        )
    bound_to = "0.0.0.0" if flow.bound_to is None else named[flow.bound_to]
    sender = place(network, origin, flow.sender)
    sent = start_traffic(sender, "send-word", named[flow.to], port, "hello", bound_to)
    assert sent.wait() == 0, sent.output()


def source_seen(network: Network, origin: Host, target: Host, flow: Flow) -> str:
    """Sends packets of `flow` until one arrives; returns the role of its source."""
    port = next(_ports)
    receiver = listen(network, target, flow, port)

    def arrived() -> list[str]:
        send(network, origin, target, flow, port)
        return [line["source"] for line in json_lines(receiver) if "word" in line]

    try:
        first, *_ = wait_until(arrived, 10, "the arrival of a packet", poll_s=0.2)
    finally:
        receiver.stop()
    named = roles(network, origin, target)
    return {str(address): role for role, address in named.items()}.get(first, first)


def expected(network: Network, flow: Flow) -> str:
    return flow.seen_masquerading if network.ip_masq else flow.seen


@pytest.mark.parametrize("name", FLOWS | FOREIGN_FLOWS)
def test_two_flannelds_do_what_the_table_says(network: Network, name: str) -> None:
    flow = (FLOWS | FOREIGN_FLOWS)[name]
    seen = source_seen(network, network.host("f1"), network.host("f2"), flow)
    assert seen == expected(network, flow)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("origin", "target"), [("t1", "f2"), ("f1", "t2"), ("t1", "t2")])
def test_with_tunneld_at_either_end_sources_are_the_same(
    network: Network, origin: str, target: str, name: str
) -> None:
    flow = FLOWS[name]
    seen = source_seen(network, network.host(origin), network.host(target), flow)
    assert seen == expected(network, flow)


@pytest.mark.parametrize("network", [True], indirect=True, ids=["ip-masq"])
@pytest.mark.parametrize("name", FOREIGN_FLOWS)
@pytest.mark.parametrize(("origin", "target"), [("t1", "f2"), ("f1", "t2"), ("t1", "t2")])
def test_masquerade_gives_foreign_sources_an_overlay_address(
    network: Network, origin: str, target: str, name: str
) -> None:
    flow = FOREIGN_FLOWS[name]
    seen = source_seen(network, network.host(origin), network.host(target), flow)
    assert seen == flow.seen_masquerading


@pytest.mark.parametrize("network", [False], indirect=True, ids=["plain"])
@pytest.mark.parametrize("name", FOREIGN_FLOWS)
def test_foreign_sources_pass_tunneld_unchanged_towards_flanneld(
    network: Network, name: str
) -> None:
    flow = FOREIGN_FLOWS[name]
    assert source_seen(network, network.host("t1"), network.host("f2"), flow) == flow.seen


@pytest.mark.parametrize("network", [False], indirect=True, ids=["plain"])
@pytest.mark.parametrize("name", FOREIGN_FLOWS)
@pytest.mark.parametrize("origin", ["f1", "t1"])
def test_foreign_sources_left_as_they_are_are_dropped_by_tunneld(
    network: Network, origin: str, name: str
) -> None:
    source, target = network.host(origin), network.of("tunneld")[1]
    port = next(_ports)
    receiver = listen(network, target, FOREIGN_FLOWS[name], port)
    before = target.status()["drops"]["source_not_leased"]

    def dropped() -> bool:
        send(network, source, target, FOREIGN_FLOWS[name], port)
        return bool(target.status()["drops"]["source_not_leased"] >= before + 3)

    wait_until(dropped, 15, "three drops for a source that nobody leases")
    receiver.stop()
    assert [line for line in json_lines(receiver) if "word" in line] == []


FURTHER_ADDRESS = "198.18.0.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A container's, to an address of the other host itself; the answer comes by the tunnel."""

    further: bool = False
    """To another address than the one the host has datagrams from."""
    strict: bool = False
    """The asking host's kernel wants answers by the way that questions leave by (rp_filter 1)."""
    drop: str | None = None
    """Where the answer ends without --ip-masq: a drop reason, or a counter of the kernel."""


QUESTIONS = {
    "its underlay address": Question(),
    "a further address": Question(further=True, drop="source_not_leased"),
    "its underlay address, reverse path strict": Question(
        strict=True, drop="TcpExtIPReversePathFilter"
    ),
}
"""Of docs/operations.md, with what it says that helps: to masquerade on the asking host."""


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_container_speaks_to_the_other_host_itself(network: Network, name: str) -> None:
    asking, asked, question = network.host("t1"), network.host("t2"), QUESTIONS[name]
    address = str(asked.public_ip)
    if question.further:
        address = FURTHER_ADDRESS
        asked.space.run("ip", "address", "replace", f"{address}/32", "dev", "lo")
        way = (f"{address}/32", "via", str(asked.public_ip))
        asking.space.run("ip", "route", "replace", *way)
    asking.space.sysctl("net/ipv4/conf/all/rp_filter", int(question.strict))

    def dropped() -> int:
        if question.strict:
            counted = asking.space.run("nstat", "-az", str(question.drop)).splitlines()
            return int(counted[-1].split()[1])
        return int(asking.status()["drops"][question.drop])

    def answered() -> bool:
        ping = ("ping", "-n", "-c", "1", "-W", "1", address)
        return "1 received" in asking.container.run(*ping, check=False)

    if question.drop is None or network.ip_masq:
        wait_until(answered, 15, f"an answer from {name}")
    else:
        before = dropped()

        def went_unanswered() -> bool:
            assert not answered()
            return dropped() >= before + 3

        wait_until(went_unanswered, 30, f"three drops as {question.drop}")
    asking.space.sysctl("net/ipv4/conf/all/rp_filter", 0)
