"""The routing netlink of the kernel, in small typed calls.

pyroute2's asynchronous socket needs datagram endpoints of family AF_NETLINK, which uvloop
does not make; so it lives on a plain selector loop in a thread of its own, and each call is
handed over and awaited. This module decides nothing.

Source: Linux rtnetlink(7).
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from socket import AF_INET
from typing import Any, Self, TypeAlias, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from tunneld.errors import CapabilityError, HostError
from tunneld.host.finish import finish

MAIN_TABLE = 254
"""include/uapi/linux/rtnetlink.h, RT_TABLE_MAIN."""

RTN_UNICAST = 1
RTN_UNREACHABLE = 7
"""include/uapi/linux/rtnetlink.h, route types."""

SCOPE_UNIVERSE = 0
SCOPE_LINK = 253
SCOPE_HOST = 254

_DUMP_TRIES = 10
"""A listing that changed while it was read is read again, at most this often in all."""

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8

_T = TypeVar("_T")

_Message: TypeAlias = Any
"""A message as pyroute2, which has no types, parses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device."""

    index: int
    name: str
    mtu_bytes: int
    txqueuelen: int
    is_up: bool
    """Administratively up."""
    is_loopback: bool
    forwarding: bool
    """IPv4 forwarding of what comes in by the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An IPv4 address of a device."""

    index: int
    address: IPv4Address
    prefix_length: int
    scope: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRoute:
    """An IPv4 route as the kernel holds it."""

    destination: IPv4Network
    type: int = RTN_UNICAST
    protocol: int
    metric: int = 0
    tos: int = 0
    scope: int = SCOPE_UNIVERSE
    oif: int | None = None
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    mtu_bytes: int = 0
    hops: tuple[int, ...] = ()
    """Device indices of a multipath route."""


class Netlink:
    """An open routing socket in the network namespace of the thread that opened it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._loop = loop
        self._thread = thread
        self._ip: Any = None
        self._lock = asyncio.Lock()
        """One request at a time: the kernel refuses a second dump on a socket (EBUSY)."""

    @classmethod
    async def open(cls) -> Self:
        """Starts the thread and opens the socket.

        Raises:
            HostError: the kernel refuses the socket.
        """
        loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=loop.run_forever, name="netlink", daemon=True)
        thread.start()
        self = cls(loop, thread)
        try:
            self._ip = await self._run("open a routing socket", _open_socket())
        except BaseException:
            await self.close()
            raise
        return self

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Self]:
        """Opens the socket for the length of a block."""
        self = await cls.open()
        try:
            yield self
        finally:
            await self.close()

    async def close(self) -> None:
        """Closes the socket and ends the thread."""
        if not self._thread.is_alive():
            return
        if self._ip is not None:
            await self._run("close the routing socket", _close_socket(self._ip))
            self._ip = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def links(self) -> list[Link]:
        """Returns all devices, in the order of their index."""
        messages = await self._dump("list the devices", self._ip.get_links)
        return sorted((_link(message) for message in messages), key=lambda link: link.index)

    async def link(self, name: str) -> Link | None:
        """Returns the device of that name, or None."""
        return next((link for link in await self.links() if link.name == name), None)

    async def addresses(self) -> list[Address]:
        """Returns all IPv4 addresses; on each device the primary ones first, as the kernel."""
        messages = await self._dump("list the addresses", self._ip.get_addr, family=AF_INET)
        return [_address(message) for message in messages]

    async def routes(self) -> list[KernelRoute]:
        """Returns the IPv4 routes of the main table, strongest metric first per destination."""
        messages = await self._dump(
            "list the routes", self._ip.get_routes, family=AF_INET, table=MAIN_TABLE
        )
        return [_route(message) for message in messages]

    async def route_to(self, destination: IPv4Address) -> KernelRoute:
        """Returns the route a packet of this host to `destination` takes.

        Raises:
            HostError: there is none.
        """
        what = f"find a route to {destination}"
        messages = await self._dump(what, self._ip.route, "get", dst=str(destination))
        return _route(messages[0])

    async def set_link(
        self, index: int, *, mtu_bytes: int, txqueuelen: int, is_up: bool = True
    ) -> None:
        """Sets a device's MTU, queue length and administrative state."""
        await self._call(
            f"set device {index}",
            self._ip.link,
            "set",
            index=index,
            mtu=mtu_bytes,
            txqlen=txqueuelen,
            state="up" if is_up else "down",
        )

    async def add_address(self, index: int, address: IPv4Address, prefix_length: int) -> None:
        """Gives a device an address."""
        await self._call(
            f"add address {address}/{prefix_length}",
            self._ip.addr,
            "add",
            index=index,
            address=str(address),
            prefixlen=prefix_length,
        )

    async def remove_address(self, index: int, address: IPv4Address, prefix_length: int) -> None:
        """Takes an address from a device; one that is gone already is no error."""
        await self._call(
            f"remove address {address}/{prefix_length}",
            self._ip.addr,
            "del",
            index=index,
            address=str(address),
            prefixlen=prefix_length,
            ignored=errno.EADDRNOTAVAIL,
        )

    async def add_route(self, route: KernelRoute) -> bool:
        """Adds a route to the main table; returns False when its place is taken."""
        return await self._call(
            f"add route {route.destination}",
            self._ip.route,
            "add",
            ignored=errno.EEXIST,
            **_request(route),
        )

    async def replace_route(self, route: KernelRoute) -> None:
        """Puts a route in the place of the one with the same destination, TOS and metric."""
        await self._call(
            f"replace route {route.destination}", self._ip.route, "replace", **_request(route)
        )

    async def remove_route(self, route: KernelRoute) -> None:
        """Removes exactly this route; one that is gone already is no error."""
        await self._call(
            f"remove route {route.destination}",
            self._ip.route,
            "del",
            ignored=errno.ESRCH,
            **_request(route),
        )

    async def _call(
        self,
        what: str,
        method: Callable[..., Awaitable[Any]],
        *args: object,
        ignored: int | None = None,
        **kwargs: object,
    ) -> bool:
        async def call() -> bool:
            try:
                await method(*args, **kwargs)
            except NetlinkError as error:
                if ignored is not None and error.code == ignored:
                    return False
                raise
            return True

        return await self._run(what, call())

    async def _dump(
        self, what: str, method: Callable[..., Awaitable[Any]], *args: object, **kwargs: object
    ) -> list[Any]:
        async def dump() -> list[Any]:
            found = await method(*args, **kwargs)
            if hasattr(found, "__aiter__"):
                return [message async for message in found]
            return list(found)

        for _ in range(_DUMP_TRIES - 1):
            try:
                return await self._run(what, dump())
            except HostError as error:
                if not isinstance(error.__cause__, NetlinkDumpInterrupted):
                    raise
        return await self._run(what, dump())

    async def _run(self, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with self._lock:
                return await finish(
                    asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
                )
        except NetlinkError as error:
            if error.code == errno.EPERM:
                raise CapabilityError(
                    f"cannot {what}: not permitted; expected CAP_NET_ADMIN: run as root or grant "
                    "the capability"
                ) from error
            text = str(error.args[1]) if len(error.args) > 1 else str(error)
            raise HostError(
                f"cannot {what}: {text}; expected the kernel to allow it: see `ip address` and "
                "`ip route`"
            ) from error
        except OSError as error:
            raise HostError(
                f"cannot {what}: {error.strerror or error}; expected a routing netlink socket"
            ) from error


async def _open_socket() -> AsyncIPRoute:
    ip = AsyncIPRoute()
    await ip.setup_endpoint()
    return ip


async def _close_socket(ip: AsyncIPRoute) -> None:
    ip.close()


def _link(message: _Message) -> Link:
    families = message.get_attr("IFLA_AF_SPEC")
    ipv4 = families.get_attr("AF_INET") if families is not None else None
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mtu_bytes=message.get_attr("IFLA_MTU") or 0,
        txqueuelen=message.get_attr("IFLA_TXQLEN") or 0,
        is_up=bool(message["flags"] & _IFF_UP),
        is_loopback=bool(message["flags"] & _IFF_LOOPBACK),
        forwarding=bool(ipv4["forwarding"]) if ipv4 is not None else False,
    )


def _address(message: _Message) -> Address:
    # On a point-to-point device IFA_ADDRESS is the other end.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return Address(
        index=message["index"],
        address=IPv4Address(own),
        prefix_length=message["prefixlen"],
        scope=message["scope"],
    )


def _route(message: _Message) -> KernelRoute:
    destination = message.get_attr("RTA_DST") or "0.0.0.0"  # noqa: S104 - the default route
    gateway = message.get_attr("RTA_GATEWAY")
    source = message.get_attr("RTA_PREFSRC")
    metrics = message.get_attr("RTA_METRICS")
    multipath = message.get_attr("RTA_MULTIPATH") or ()
    return KernelRoute(
        destination=IPv4Network((destination, message["dst_len"])),
        type=message["type"],
        protocol=message["proto"],
        metric=message.get_attr("RTA_PRIORITY") or 0,
        tos=message["tos"],
        scope=message["scope"],
        oif=message.get_attr("RTA_OIF"),
        gateway=IPv4Address(gateway) if gateway else None,
        source=IPv4Address(source) if source else None,
        mtu_bytes=(metrics.get_attr("RTAX_MTU") or 0) if metrics is not None else 0,
        hops=tuple(hop["oif"] for hop in multipath),
    )


def _request(route: KernelRoute) -> dict[str, Any]:
    request: dict[str, Any] = {
        "dst": str(route.destination),
        "type": route.type,
        "proto": route.protocol,
        "priority": route.metric,
        "scope": route.scope,
        "table": MAIN_TABLE,
    }
    if route.oif is not None:
        request["oif"] = route.oif
    if route.source is not None:
        request["prefsrc"] = str(route.source)
    if route.mtu_bytes:
        request["metrics"] = {"mtu": route.mtu_bytes}
    return request
