"""Whose a lease is, by node id, address and machine: none of them is enough alone."""

from __future__ import annotations

import pytest

from tests.support.leases import holder, key, lease, record, table
from tests.unit.lease.values import ALICE, ME
from tunneld.lease.kinship import Identity, kin
from tunneld.lease.model import ASKS, NodeRecord

SUBNET = "10.5.7.0/24"
SAME, OTHER = "a" * 32, "b" * 32


def judged(
    *records: NodeRecord, address: str = ME, machine: str | None = SAME, previous: str | None = None
) -> tuple[str, str] | None:
    """Returns origin and doubt of the one lease, which `ME` publishes."""
    me = Identity(node_id="mine", holder=holder(address), machine=machine)
    view = table(lease(SUBNET, ME), *records)
    found = list(kin(view, me, previous=None if previous is None else key(previous)))
    assert len(found) <= 1
    return (found[0].origin, found[0].doubt) if found else None


@pytest.mark.parametrize(
    ("recorded", "machine", "address", "expected"),
    [
        # A restart; on a machine without an id; of a version that wrote none.
        (SAME, SAME, ME, ("owned", "none")),
        (SAME, None, ME, ("owned", "none")),
        (None, SAME, ME, ("owned", "none")),
        # DHCP has moved the host, or the machine was cloned with its id.
        (SAME, SAME, ALICE, ("owned", "live")),
        (None, SAME, ALICE, ("owned", "live")),
        (SAME, None, ALICE, ("owned", "live")),
        # A container whose machine id is another at each start, or a reinstalled host.
        (OTHER, SAME, ME, ("owned", "live")),
        # The directory of another machine.
        (OTHER, SAME, ALICE, ("owned", "copy")),
    ],
)
def test_node_id_counts_where_machine_and_address_agree(
    recorded: str | None, machine: str | None, address: str, expected: tuple[str, str]
) -> None:
    mine = record("mine", SUBNET, ME, machine=recorded)
    assert judged(mine, machine=machine, address=address) == expected


@pytest.mark.parametrize("recorded", [SAME, OTHER, None])
def test_address_counts_when_nobody_answers_for_the_node_that_published_it(
    recorded: str | None,
) -> None:
    assert judged(record("other", SUBNET, ME, machine=recorded)) == ("public_ip", "live")
    assert judged() == ("public_ip", "none")
    assert judged(record("other", SUBNET, ALICE, machine=recorded)) == ("public_ip", "none")


def test_subnet_env_counts_on_the_same_machine_alone() -> None:
    there = record("other", SUBNET, ME, machine=SAME)
    assert judged(there, address=ALICE, previous=SUBNET) == ("subnet_env", "live")
    assert judged(there, address=ALICE, previous=SUBNET, machine=None) is None
    assert judged(there, address=ALICE, previous=SUBNET, machine=OTHER) is None
    assert judged(there, address=ALICE) is None


def test_question_holds_nothing() -> None:
    asks = NodeRecord(
        node_id="question",
        key=key(SUBNET),
        public_ip=holder(ME).public_ip,
        version="0.1.0",
        extra={ASKS: [SUBNET]},
    )
    assert judged(asks) == ("public_ip", "none")


def test_network_that_loses_a_family_leaves_its_hosts_known() -> None:
    both = "10.5.7.0/24,fd00:10:5:7::/64"
    view = table(lease(both, f"{ME},fd99::11"), record("mine", both, f"{ME},fd99::11"))
    for address in (ME, "fd99::11"):
        (found,) = kin(view, Identity(node_id="mine", holder=holder(address)))
        assert found.doubt == "none"
