from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lease.effort import calls_of
from tests.unit.trust.values import addresses, net, nets
from tunneld.lease.model import IPAddress, IPNetwork
from tunneld.trust.memory import Memory, Sightings

DAY_S = 24 * 3600.0
SUBNETS, AT = nets("10.5.1.0/24", "fd00:5:1::/64"), addresses("192.0.2.1")
NOBODY = addresses("192.0.2.200")


@dataclass(frozen=True)
class At:
    wall_s: float = 1_000_000.0
    boot_s: float = 5_000.0
    boot_id: str | None = "first"


def remembering(seen_s: float = 5_000.0) -> Memory:
    memory = Memory()
    memory.with_keys.add(SUBNETS, AT, seen_s)
    return memory


def again(memory: Memory, written: At, read: At) -> Memory:
    return Memory.load(json.loads(json.dumps(memory.dump(written))), read)


@pytest.mark.parametrize(
    ("subnets", "at", "is_found"),
    [
        (SUBNETS, AT, True),
        (SUBNETS, NOBODY, True),
        (nets("10.5.9.0/24"), AT, True),
        (nets("10.5.0.0/16"), NOBODY, True),
        (nets("10.5.1.128/25"), NOBODY, True),
        (nets("fd00:5:1::/64"), NOBODY, True),
        (nets("10.5.2.0/24"), NOBODY, False),
    ],
)
def test_a_peer_is_known_again_by_a_subnet_or_an_address(
    subnets: frozenset[IPNetwork], at: frozenset[IPAddress], *, is_found: bool
) -> None:
    found = remembering().with_keys.find(subnets, at, 5_000.0)
    assert (found is not None) is is_found


def test_it_is_remembered_for_a_day_after_it_was_last_seen() -> None:
    memory = remembering(0.0)
    memory.with_keys.add(SUBNETS, AT, 7_200.0)
    assert memory.with_keys.find(SUBNETS, AT, 7_200.0 + DAY_S - 1)
    assert not memory.with_keys.find(SUBNETS, AT, 7_200.0 + DAY_S)


def test_it_is_remembered_over_a_restart_of_the_daemon_by_the_clock_nobody_sets() -> None:
    a_year_on = At(wall_s=1_000_000.0 + 365 * DAY_S, boot_s=5_000.0 + DAY_S - 1)
    a_day_on = At(wall_s=0.0, boot_s=5_000.0 + DAY_S)
    memory = remembering()
    assert again(memory, At(), a_year_on).with_keys.find(SUBNETS, AT, a_year_on.boot_s)
    assert not again(memory, At(), a_day_on).with_keys.find(SUBNETS, AT, a_day_on.boot_s)


def test_it_is_remembered_over_a_restart_of_the_machine_by_the_wall_clock() -> None:
    memory = remembering(5_000.0)
    later = At(wall_s=1_000_000.0 + DAY_S - 61, boot_s=10.0, boot_id="second")
    read = again(memory, At(boot_s=5_060.0), later)
    assert read.with_keys.find(SUBNETS, AT, later.boot_s)
    assert not read.with_keys.find(SUBNETS, AT, later.boot_s + 1)


def test_a_wall_clock_that_was_set_back_makes_nothing_last_longer_than_a_day() -> None:
    back = At(wall_s=5.0, boot_s=10.0, boot_id="second")
    read = again(remembering(), At(), back)
    assert read.with_keys.find(SUBNETS, AT, 10.0 + DAY_S - 1)
    assert not read.with_keys.find(SUBNETS, AT, 10.0 + DAY_S)


@pytest.mark.parametrize("what", ["10.5.1.0/24", "10.5.0.0/16", "192.0.2.1/32", "fd00:5:1::/64"])
def test_allowing_plain_forgets_a_peer_with_all_it_is_known_by(what: str) -> None:
    memory = remembering()
    (gone,) = memory.allow_plain(net(what), 5_000.0)
    assert gone.subnets == SUBNETS
    assert not memory.with_keys.find(SUBNETS, AT, 5_000.0)


def test_allowing_plain_forgets_nobody_else() -> None:
    memory = remembering()
    assert memory.allow_plain(net("10.5.2.0/24"), 5_000.0) == ()
    assert memory.with_keys.find(SUBNETS, AT, 5_000.0)


def test_what_is_old_is_not_written_down() -> None:
    memory = remembering(0.0)
    assert memory.dump(At(boot_s=DAY_S))["WithKeys"] == []


def test_nothing_is_remembered_at_first() -> None:
    assert not Memory.load(None, At()).with_keys.find(SUBNETS, AT, 0.0)


def broken(**changes: object) -> dict[str, object]:
    return {**remembering().dump(At()), **changes}


@pytest.mark.parametrize(
    "document",
    [
        [],
        "x",
        {},
        broken(Format=2),
        broken(WithKeys=None),
        broken(WithKeys=[{}]),
        broken(WithKeys=[{"Subnets": ["x"], "Addresses": [], "SeenS": 1}]),
        broken(WithKeys=[{"Subnets": [], "Addresses": [], "SeenS": "1"}]),
        broken(WithKeys=[{"Subnets": [], "Addresses": [], "SeenS": float("nan")}]),
        broken(Boot="other", WallS=None),
        broken(Allowed=[{"Subnets": [], "Addresses": [], "Instance": None}]),
    ],
)
def test_a_damaged_memory_is_an_error_and_no_memory(document: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Memory.load(document, At())


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2 * DAY_S)), max_size=8),
    st.integers(0, 3),
    st.floats(0, 4 * DAY_S),
)
def test_memory_is_what_a_list_of_sightings_says(
    seen: list[tuple[int, float]], asked: int, now_s: float
) -> None:
    memory = Memory()
    for number, when_s in seen:
        memory.with_keys.add(nets(f"10.5.{number}.0/24"), NOBODY, when_s)
    # All of them are at one address: that alone is enough.
    recent = any(now_s - when_s < DAY_S for _, when_s in seen)
    own = any(now_s - when_s < DAY_S for number, when_s in seen if number == asked)
    assert bool(memory.with_keys.find(nets("10.6.0.0/24"), NOBODY, now_s)) is recent
    assert bool(memory.with_keys.find(nets(f"10.5.{asked}.0/24"), AT, now_s)) is own


def test_a_start_that_sees_thousands_for_the_first_time_looks_once_at_each() -> None:
    """Twice as many cost twice as much: in a large network a start took minutes."""

    def seen(count: int) -> int:
        sightings = Sightings()

        def see() -> None:
            for number in range(count):
                subnets = nets(str(IPv4Network((0x0A000000 + 256 * number, 24))))
                sightings.find(subnets, addresses(), 0.0)
                sightings.add(subnets, addresses(), 0.0)

        return calls_of(see)

    assert seen(400) < 3 * seen(200)
