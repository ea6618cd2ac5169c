from __future__ import annotations

import asyncio
import errno
import gc
import threading
import warnings
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.netns import Namespace
from tests.unit.host.conftest import refusal, run_inside, without
from tunneld.errors import HostError
from tunneld.host.netlink import RTN_UNREACHABLE, KernelRoute, Netlink, wire

pytestmark = pytest.mark.root


def test_what_is_written_is_read_back(space: Namespace) -> None:
    space.bridge("br0", "10.1.0.1/24")
    written = {
        KernelRoute(destination=IPv4Network("10.7.0.0/16"), protocol=99, oif=2, mtu_bytes=1300),
        KernelRoute(
            destination=IPv4Network("10.8.0.0/16"),
            protocol=99,
            oif=2,
            metric=7,
            source=IPv4Address("10.1.0.1"),
        ),
        KernelRoute(
            destination=IPv4Network("10.8.0.0/16"),
            protocol=99,
            type=RTN_UNREACHABLE,
            metric=4294967295,
        ),
    }

    async def work() -> set[KernelRoute]:
        async with Netlink.opened() as netlink:
            link = await netlink.link("br0")
            assert link is not None
            assert link.index == 2
            assert await netlink.link("br1") is None
            for route in written:
                assert await netlink.add_route(route)
                assert not await netlink.add_route(route)
            found = {route for route in await netlink.routes() if route.protocol == 99}
            for route in written:
                await netlink.remove_route(route)
                await netlink.remove_route(route)
            assert [route for route in await netlink.routes() if route.protocol == 99] == []
            return found

    assert run_inside(space, work) == written


def test_many_calls_may_run_at_once(space: Namespace) -> None:
    async def work() -> None:
        async with Netlink.opened() as netlink:
            answers = await asyncio.gather(*(netlink.links() for _ in range(50)))
            assert all([link.name for link in links] == ["lo"] for links in answers)

    run_inside(space, work)


def test_call_that_is_cancelled_while_it_waits_for_its_turn_leaves_nothing(
    space: Namespace,
) -> None:
    async def work() -> None:
        async with Netlink.opened() as netlink:
            calls = [asyncio.create_task(netlink.links()) for _ in range(8)]
            await asyncio.sleep(0)  # the first has its turn
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert [link.name for link in await netlink.links()] == ["lo"]

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run_inside(space, work)
        gc.collect()
    assert [str(one.message) for one in said if "never awaited" in str(one.message)] == []


def test_refusal_of_the_kernel_names_the_call(space: Namespace) -> None:
    async def work() -> None:
        async with Netlink.opened() as netlink:
            await netlink.add_address(4711, IPv4Address("10.5.1.0"), 32)

    with pytest.raises(HostError, match=r"cannot add address 10\.5\.1\.0/32: No such device"):
        run_inside(space, work)


def test_missing_capability_is_one_clear_line(space: Namespace) -> None:
    code = (
        "from tunneld.host.netlink import Netlink; from ipaddress import IPv4Address as A; "
        "await (await Netlink.open()).add_address(1, A('10.5.1.0'), 32)"
    )
    said = refusal(code, *space.command(*without("net_admin")))
    assert said.startswith("CapabilityError: cannot add address 10.5.1.0/32: not permitted")


def test_close_ends_the_thread_and_may_be_repeated(space: Namespace) -> None:
    async def work() -> None:
        netlink = await Netlink.open()
        assert any(thread.name == "netlink" for thread in threading.enumerate())
        await netlink.close()
        await netlink.close()

    run_inside(space, work)
    assert not any(thread.name == "netlink" for thread in threading.enumerate())


def test_of_the_many_routes_of_others_none_is_read(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that speaks BGP has 100,000; each that is read costs a share of a millisecond."""
    read: list[bytes] = []
    whole = wire.route

    def counting(body: bytes) -> KernelRoute | None:
        read.append(body)
        return whole(body)

    monkeypatch.setattr(wire, "route", counting)
    space.bridge("br0", "10.1.0.1/24")
    others = [f"route add 11.0.{n >> 8}.{n & 255}/32 dev br0 proto bird" for n in range(5000)]
    space.run("ip", "-batch", "-", stdin="\n".join(others))
    space.run("ip", "route", "add", "default", "via", "10.1.0.2")
    space.run("ip", "route", "add", "10.5.2.0/24", "via", "10.1.0.2", "proto", "116")

    async def work() -> None:
        async with Netlink.opened() as netlink:
            (own,) = await netlink.routes(protocol=116)
            assert own.destination == IPv4Network("10.5.2.0/24")
            (default,) = await netlink.default_routes()
            assert default.gateway == IPv4Address("10.1.0.2")
            (other,) = await netlink.routes_to([IPv4Network("11.0.4.4/32")])
            assert other.protocol == 12  # bird's
            assert len(await netlink.routes(oif=2)) > 5000

    run_inside(space, work)
    assert len(read) < 5020


def test_of_many_changes_those_refused_keep_nothing_from_the_others(space: Namespace) -> None:
    space.bridge("br0", "10.1.0.1/24")
    space.run("ip", "route", "add", "10.5.7.0/24", "via", "10.1.0.7")
    wanted = [
        KernelRoute(
            destination=IPv4Network((0x0A050000 + (number << 8), 24)),
            protocol=116,
            gateway=IPv4Address("10.1.0.2"),
            oif=2,
        )
        for number in range(250)
    ]

    async def work() -> None:
        async with Netlink.opened() as netlink:
            codes = await netlink.put_routes([(route, False) for route in wanted])
            assert {n: code for n, code in enumerate(codes) if code} == {7: errno.EEXIST}
            there = set(await netlink.routes(protocol=116))
            assert there == {route for number, route in enumerate(wanted) if number != 7}
            await netlink.remove_routes(wanted)
            assert await netlink.routes(protocol=116) == []

    run_inside(space, work)


@given(st.binary(max_size=120))
def test_no_message_breaks_the_reader(body: bytes) -> None:
    head = bytes(12)
    for read in (wire.route, wire.neighbour, wire.bridge_entry):
        for family in (2, 7, 10, 99):
            read(bytes([family]) + head[1:] + body)
    wire.is_to(head + body, frozenset({(24, b"\x0a\x05\x02\x00")}))
