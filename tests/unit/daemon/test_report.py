"""What the node says of itself: every room adds its line, and all faces show it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any, cast

from tunneld.control.status import FirewallStatus
from tunneld.daemon.report import Report
from tunneld.fib.state import Route
from tunneld.lease.registry import StoreStatus


class Member:
    """What the report asks of the membership."""

    problem: str | None = None
    own = None

    def store_status(self) -> StoreStatus:
        return StoreStatus(kind="etcd", connected=True, revision=1, endpoint="here")


def report() -> Report:
    firewall = FirewallStatus(mode="auto", forward_rules=True)
    return Report(membership=cast("Any", Member()), firewall=firewall)


def test_a_room_adds_a_line_and_takes_it_away_again() -> None:
    node = report()
    lines: list[str] = []
    end = node.add(lambda: lines)
    node.add(lambda: None)
    node.phase = "ready"
    assert (node.problems(), node.state) == ((), "ready")

    lines += ["the disk is full", "the log is not read"]
    assert node.problems() == ("the disk is full", "the log is not read")
    assert node.state == "degraded"
    assert node.health().remarks == node.problems()
    assert "the disk is full; the log is not read" in node.sentence()

    end()
    assert (node.problems(), node.state) == ((), "ready")


def test_a_line_two_rooms_tell_is_shown_once() -> None:
    node = report()
    node.add(lambda: "no descriptor is free")
    node.add(lambda: "no descriptor is free")
    assert node.problems() == ("no descriptor is free",)


def test_who_is_reached_follows_peers_routes_and_what_hides_them() -> None:
    """The count is kept from one second to the next: of 10,000 peers it takes 50 ms to make."""
    node = report()
    near, far = IPv4Network("10.5.2.0/24"), IPv4Network("10.5.3.0/24")

    def peer(prefix: IPv4Network, *, by_engine: bool) -> tuple[Any, Any]:
        return SimpleNamespace(key=prefix), SimpleNamespace(adjacency=by_engine or None)

    desired = SimpleNamespace(peers={near: peer(near, by_engine=True)})
    actuator = SimpleNamespace(known_routes=frozenset())
    shadows = SimpleNamespace(hidden=frozenset())
    node.desired, node.shadows = cast("Any", desired), cast("Any", shadows)
    node.path = cast("Any", SimpleNamespace(actuator=actuator))
    assert (node.peer_count, node.peer_count) == (1, 1)
    desired.peers = {**desired.peers, far: peer(far, by_engine=False)}
    assert node.peer_count == 1  # until the kernel has its route
    actuator.known_routes = frozenset(
        {Route(destination=far, kind="gateway", gateway=IPv4Address("192.0.2.3"))}
    )
    assert node.peer_count == 2
    shadows.hidden = frozenset({near})
    assert node.peer_count == 1
    node.forget()
    assert node.peer_count == 0
