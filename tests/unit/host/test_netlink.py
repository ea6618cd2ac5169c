from __future__ import annotations

import asyncio
import threading
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.netns import Namespace
from tests.unit.host.conftest import refusal, run_inside, without
from tunneld.errors import HostError
from tunneld.host.netlink import RTN_UNREACHABLE, KernelRoute, Netlink

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
