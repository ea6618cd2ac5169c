"""Paths that carry less than the link: what probes and the kernel's word make of adjacencies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from tests.unit.backend.values import PEER_MAC, backend
from tunneld.backend.base import Adjacency, OuterDf
from tunneld.daemon.path_mtu import PathMtus
from tunneld.errors import EngineError, HostError
from tunneld.lease.model import IPAddress, IPNetwork

FAR, FAR_V6 = ip_address("198.51.100.2"), ip_address("2001:db8:2::2")
SUBNET, SUBNET_V6 = ip_network("10.5.2.0/24"), ip_network("fd00:10:5:2::/64")


def to(endpoint: IPAddress) -> Adjacency:
    return Adjacency(
        encapsulation="vxlan",
        endpoint=endpoint,
        port=8472,
        mtu_bytes=1430,
        of_peer={"vtep_mac": PEER_MAC},
    )


REACHES: dict[IPNetwork, Adjacency] = {
    SUBNET: to(FAR),
    SUBNET_V6: to(FAR_V6),
}


@dataclass
class Paths:
    """Stands in for the engine: paths that carry so much, to peers that are all in use."""

    mtus: PathMtus
    carries: Mapping[IPAddress, int]
    """By overlay address; a peer that is not there does not answer."""
    used: list[str]
    sent: list[IPAddress] = field(default_factory=list)
    refuses: bool = False

    def take_used(self) -> list[str]:
        return self.used

    def probe(self, destination: IPAddress, size_bytes: int, token: int) -> int:
        if self.refuses:
            raise EngineError("engine: probe, but it is stopped")
        self.sent.append(destination)
        if size_bytes <= self.carries.get(destination, 0):
            loop = asyncio.get_running_loop()
            for socket in range(2):
                loop.call_soon(self.mtus.answered, token, socket)
        return 2


def path_mtus(route_mtu: int | None = None) -> tuple[PathMtus, list[None]]:
    async def ask(_: IPAddress) -> int | None:
        if route_mtu == 0:
            raise HostError("no route")
        return route_mtu

    made = PathMtus(overhead_bytes=backend("vxlan", "dual").overhead_bytes, route_mtu=ask)
    changes: list[None] = []
    made.on_change = lambda: changes.append(None)
    return made, changes


def held(made: PathMtus) -> dict[IPNetwork, tuple[int, OuterDf]]:
    """What the adjacencies of a plan are, by what is known of their paths."""
    made.follow(REACHES)
    known = made.known()
    found = {}
    for prefix, adjacency in REACHES.items():
        path = known.get((adjacency.endpoint, adjacency.port))
        how = adjacency if path is None else path
        found[prefix] = (how.mtu_bytes, how.outer_df)
    return found


def run_until(made: PathMtus, wanted: Mapping[IPNetwork, tuple[int, OuterDf]]) -> None:
    """Probes until that is held."""

    async def main() -> None:
        reached = asyncio.Event()

        def look() -> None:
            if held(made) == wanted:
                reached.set()

        made.on_change = look
        look()
        running = asyncio.create_task(made.run())
        try:
            async with asyncio.timeout(30):
                await reached.wait()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(main())


def test_word_of_the_kernel_lowers_each_family_by_its_own_headers() -> None:
    found, changes = path_mtus()
    assert held(found) == {SUBNET: (1430, "kernel"), SUBNET_V6: (1430, "kernel")}
    found.refused(str(SUBNET), 1400)
    assert held(found) == {SUBNET: (1350, "kernel"), SUBNET_V6: (1430, "kernel")}
    found.refused(str(SUBNET_V6), 1400)
    assert held(found) == {SUBNET: (1350, "kernel"), SUBNET_V6: (1330, "kernel")}
    assert len(changes) == 2
    found.refused(str(SUBNET), 1400)
    found.refused("10.5.99.0/24", 1400)
    found.refused(None, 1400)
    found.refused(str(SUBNET), None)
    assert len(changes) == 2


def test_narrow_path_without_icmp_is_found_by_probes() -> None:
    found, _ = path_mtus()
    carries = {SUBNET.network_address: 1350, SUBNET_V6.network_address: 1200}
    found.follow(REACHES)
    found.prober = Paths(found, carries, [str(SUBNET), str(SUBNET_V6), "10.5.99.0/24"])
    # Packets of IPv6 may not be told less than 1,280 bytes: they leave in fragments beyond it.
    run_until(found, {SUBNET: (1350, "kernel"), SUBNET_V6: (1200, "kernel")})
    assert {found.state_of(to(FAR)), found.state_of(to(FAR_V6))} == {"found"}


def test_only_peers_in_use_are_probed_and_silent_ones_get_fragments() -> None:
    found, _ = path_mtus()
    found.follow(REACHES)
    found.prober = paths = Paths(found, {}, [str(SUBNET)])
    run_until(found, {SUBNET: (1430, "clear"), SUBNET_V6: (1430, "kernel")})
    assert set(paths.sent) == {SUBNET.network_address}
    assert (found.state_of(to(FAR)), found.state_of(to(FAR_V6))) == ("silent", "unknown")


def test_thousand_peers_that_come_into_use_at_once_are_probed_in_turn() -> None:
    found, _ = path_mtus()
    prefixes = [ip_network((0x0A060000 + 256 * number, 24)) for number in range(1000)]
    reaches: dict[IPNetwork, Adjacency] = {
        prefix: to(ip_address(0xC6336400 + number)) for number, prefix in enumerate(prefixes)
    }
    found.follow(reaches)
    looks: list[int] = []
    seen = asyncio.Event()

    class Crowd(Paths):
        def take_used(self) -> list[str]:
            looks.append(len(set(self.sent)))
            if len(looks) == 4:
                seen.set()
            return self.used

    async def main() -> None:
        running = asyncio.create_task(found.run())
        await seen.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    found.prober = Crowd(found, {}, [str(prefix) for prefix in prefixes])
    asyncio.run(main())
    assert all(0 <= after - before <= 50 for before, after in itertools.pairwise(looks))
    assert looks[-1] > 50


def test_forged_word_of_the_kernel_is_refuted() -> None:
    found, _ = path_mtus()
    found.follow(REACHES)
    found.prober = Paths(found, {SUBNET.network_address: 1430}, [])
    found.refused(str(SUBNET), 552)
    assert held(found)[SUBNET][0] == 1430, "nobody is told before a probe has spoken"
    run_until(found, {SUBNET: (1430, "probed"), SUBNET_V6: (1430, "kernel")})


@pytest.mark.parametrize(
    ("route_mtu", "expected"), [(1300, (1250, "kernel")), (0, (1430, "probed"))]
)
def test_mtu_of_the_operators_route_is_kept_to(
    route_mtu: int, expected: tuple[int, OuterDf]
) -> None:
    found, _ = path_mtus(route_mtu)
    found.follow(REACHES)
    done = asyncio.Event()

    class Settled(Paths):
        def take_used(self) -> list[str]:
            if found.state_of(to(FAR)) == "found":
                done.set()
            return self.used

    async def main() -> None:
        running = asyncio.create_task(found.run())
        await done.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    found.prober = Settled(found, {SUBNET.network_address: 1430}, [])
    found.refused(str(SUBNET), 1300)
    asyncio.run(main())
    assert held(found)[SUBNET] == expected


def test_engine_that_has_stopped_is_no_fault() -> None:
    found, _ = path_mtus()
    found.follow(REACHES)
    found.prober = Paths(found, {}, [str(SUBNET)], refuses=True)
    run_until(found, {SUBNET: (1430, "clear"), SUBNET_V6: (1430, "kernel")})


def sealed(prefix: IPNetwork, endpoint: IPAddress, mtu_bytes: int) -> Adjacency:
    """As `backend.esp` has it; on the port that plain packets went to, for a store may say so."""
    return Adjacency(
        encapsulation="esp",
        endpoint=endpoint,
        port=8472,
        mtu_bytes=mtu_bytes,
        of_peer={"key": "K", "subnet": str(prefix)},
    )


@pytest.mark.parametrize(
    ("endpoint", "path_mtu_bytes", "inner_bytes"),
    # RFC 4303: outer IP, UDP, SPI, number and IV (16), packet, padding to 4, 2, ICV (16).
    [(FAR, 1400, 1338), (FAR, 1403, 1338), (FAR, 1404, 1342), (FAR_V6, 1400, 1318)],
)
def test_encrypted_packets_are_as_large_as_their_padding_lets_a_path_take(
    endpoint: IPAddress, path_mtu_bytes: int, inner_bytes: int
) -> None:
    found, _ = path_mtus()
    reaches = {prefix: sealed(prefix, endpoint, 1438) for prefix in (SUBNET, SUBNET_V6)}
    found.follow(reaches)
    found.refused(str(SUBNET_V6), path_mtu_bytes)
    assert {path: one.mtu_bytes for path, one in found.known().items()} == {
        (endpoint, 8472): inner_bytes
    }, "both families of a peer travel on one path"
    found.prober = Paths(found, {SUBNET.network_address: inner_bytes - 3}, [str(SUBNET)])
    done = asyncio.Event()

    async def main() -> None:
        found.on_change = lambda: done.set() if mtu(found) == inner_bytes - 3 else None
        running = asyncio.create_task(found.run())
        async with asyncio.timeout(30):
            await done.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(main())


def mtu(found: PathMtus) -> int:
    (known,) = found.known().values()
    return known.mtu_bytes


def test_peer_that_gets_keys_is_looked_at_anew() -> None:
    found, _ = path_mtus()
    found.follow(REACHES)
    found.refused(str(SUBNET), 1400)
    found.follow({SUBNET: sealed(SUBNET, FAR, 1438)})
    assert found.known() == {}
    found.refused(str(SUBNET), 1400)
    assert mtu(found) == 1338


def test_peer_that_is_gone_is_forgotten() -> None:
    found, _ = path_mtus()
    found.follow(REACHES)
    found.refused(str(SUBNET), 1400)
    found.follow({})
    assert held(found)[SUBNET] == (1430, "kernel")
