"""The rule by which one underlay follows another. Times are seconds; the clock is the test's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.daemon.succession import AT_HOME_S, GRACE_S, Sight, Succession
from tunneld.host.underlay import Underlay
from tunneld.lease.model import IPAddress

OWN, VIP, NEW, OTHER = (IPv4Address(f"192.0.2.{number}") for number in (11, 100, 77, 78))


def underlay(address: IPv4Address, index: int = 2, **changes: object) -> Underlay:
    made = Underlay(
        name=f"eth{index}", index=index, address=address, public_ip=address, mtu_bytes=1500
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass
class Host:
    """One interface, whose first address is what the selection means without a preference."""

    addresses: list[IPv4Address]
    succession: Succession = field(default_factory=Succession)
    index: int = 2
    name: str = ""

    def look(self, now_s: float) -> IPAddress | None:
        """Looks as the keeper does; returns the address in use."""
        before = self.succession.in_use
        is_held = before is not None and self.index == before.index
        is_held = is_held and before is not None and before.address in self.addresses
        held = before if is_held else None
        chosen = None
        if before is None or not is_held or self.succession.preferred(held):
            wanted = [one[0] for one in self.succession.preferred(held)]
            ordered = [*(one for one in wanted if one in self.addresses), *self.addresses]
            chosen = underlay(ordered[0], self.index) if ordered else None  # type: ignore[arg-type]
        sight = Sight(held=held, chosen=chosen, addresses=tuple(self.addresses))
        self.succession.see(sight, now_s)
        return self.succession.in_use.address if self.succession.in_use else None


def test_nothing_moves_while_the_address_in_use_stands() -> None:
    host = Host([OWN])
    assert host.look(0) == OWN
    host.addresses = [VIP, OWN]
    assert host.look(10) == OWN
    assert host.look(10_000) == OWN


def test_an_address_that_stood_beside_is_taken_only_after_a_while() -> None:
    host = Host([OWN, VIP])
    host.look(0)
    host.addresses = [VIP]
    assert host.look(100) == OWN
    assert not host.succession.is_held
    assert host.succession.wait_s(100 + 1) == pytest.approx(GRACE_S - 1)
    assert host.look(100 + GRACE_S - 0.1) == OWN
    assert host.look(100 + GRACE_S) == VIP
    assert host.succession.wait_s(200) is None


def test_the_lost_address_is_taken_again_when_it_returns_though_it_is_not_the_first() -> None:
    host = Host([OWN, VIP])
    host.look(0)
    host.addresses = [VIP]
    for now_s in (100, 100 + GRACE_S):
        host.look(now_s)
    host.addresses = [VIP, OWN]
    assert host.look(200) == OWN
    # The one that stood in is not remembered: its return moves nothing.
    host.addresses = [OWN]
    host.look(300)
    host.addresses = [VIP, OWN]
    assert host.look(400) == OWN


def test_an_address_that_is_back_in_time_moves_nothing() -> None:
    host = Host([OWN, VIP])
    host.look(0)
    host.addresses = [VIP]
    host.look(100)
    host.addresses = [VIP, OWN]
    assert host.look(101) == OWN
    assert host.succession.is_held
    host.addresses = [VIP]
    assert host.look(101 + GRACE_S) == OWN, "the time begins anew"


@pytest.mark.parametrize("order", ["added first", "removed first", "seen at once"])
def test_an_address_that_comes_with_the_loss_is_taken_at_once(order: str) -> None:
    host = Host([OWN])
    host.look(0)
    if order == "added first":
        host.addresses = [OWN, NEW]
        assert host.look(50.0) == OWN
    elif order == "removed first":
        host.addresses = []
        assert host.look(50.0) == OWN
    host.addresses = [NEW]
    assert host.look(50.2) == NEW
    assert host.succession.memory == ((OWN,), (NEW,))


def test_a_second_and_a_third_change_are_followed_at_once() -> None:
    host = Host([OWN])
    host.look(0)
    for step, address in enumerate((NEW, OTHER, VIP, NEW)):
        host.addresses = [address]
        assert host.look(10 + step / 10) == address


def test_the_same_address_on_another_device_is_taken_at_once() -> None:
    host = Host([OWN])
    host.look(0)
    host.index = 3
    assert host.look(1) == OWN
    assert host.succession.in_use is not None
    assert host.succession.in_use.index == 3
    assert host.succession.memory == ((OWN,),)


def test_a_new_name_or_mtu_is_no_move() -> None:
    succession = Succession()
    first = underlay(OWN)
    assert succession.see(Sight(held=None, chosen=first, addresses=[OWN]), 0)
    renamed = replace(first, name="wan0", mtu_bytes=1400)
    assert not succession.see(Sight(held=renamed, chosen=None, addresses=[OWN]), 1)
    assert succession.in_use == renamed
    assert renamed.is_same(first)


def test_a_tentative_address_is_taken_once_it_is_settled() -> None:
    succession = Succession()
    address = IPv6Address("2001:db8::11")
    tentative = underlay(OWN, address_v6=address, is_tentative=True)
    assert not succession.see(Sight(held=None, chosen=tentative, addresses=[OWN, address]), 0)
    assert succession.in_use is None
    settled = replace(tentative, is_tentative=False)
    assert succession.see(Sight(held=None, chosen=settled, addresses=[OWN, address]), 1)
    # In use and asked about anew, as after a link that was down: bound to nothing, and no move.
    assert not succession.see(Sight(held=tentative, chosen=None, addresses=[OWN, address]), 2)
    assert not succession.is_held
    assert not succession.see(Sight(held=settled, chosen=None, addresses=[OWN, address]), 3)
    assert succession.is_held


def test_an_address_of_an_earlier_run_goes_first() -> None:
    host = Host([VIP, OWN], Succession([(OWN,)]))
    assert host.look(0) == OWN
    late = Host([VIP], Succession([(OWN,)]))
    assert late.look(0) == VIP
    late.addresses = [VIP, OWN]
    assert late.look(100) == OWN


def test_an_address_long_in_use_is_the_hosts_own() -> None:
    host = Host([OWN])
    host.look(0)
    host.addresses = [NEW]
    host.look(1)
    host.look(1 + AT_HOME_S)
    host.addresses = [OWN, NEW]
    assert host.look(2 + AT_HOME_S) == NEW


ADDRESSES = st.lists(st.sampled_from([OWN, VIP, NEW, OTHER]), unique=True, max_size=4)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), ADDRESSES), max_size=30))
def test_whatever_happens_an_address_in_use_never_moves_but_back(
    steps: list[tuple[float, list[IPv4Address]]],
) -> None:
    host = Host([OWN])
    host.look(0)
    now_s = 0.0
    for after_s, addresses in steps:
        now_s += after_s
        before = host.succession.in_use
        former = set(host.succession.preferred(before))
        assert before is not None
        host.addresses = addresses
        found = host.look(now_s)
        if before.address in addresses and found != before.address:
            assert (found,) in former
        # And in the end there is one, as soon as there is any at all.
    host.addresses = [NEW]
    host.look(now_s + 1)
    assert host.look(now_s + 1.1 + GRACE_S) == NEW
    assert host.succession.is_held
