"""What the node says of itself: every room adds its line, and all faces show it."""

from __future__ import annotations

from typing import Any, cast

from tunneld.control.status import FirewallStatus
from tunneld.daemon.report import Report
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
