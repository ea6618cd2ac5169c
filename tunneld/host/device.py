"""Settings of the overlay device: address, MTU, queue length, forwarding, and no IPv6.

Path of a lease: `host.actuator` -> **`host.device`** -> the kernel.

Forwarding is switched on for this device alone. `rp_filter` stays as the operator has it: the
network route leads to this device, so that also the strict check lets overlay traffic pass.
IPv6 stays off the device: the encapsulation carries none, and what the kernel says by itself
(router solicitations, multicast reports) would only be dropped and counted.

Source: Linux include/uapi/linux/if_link.h (IFLA_AF_SPEC), ip-sysctl.rst; flannel
`pkg/backend/udp/udp_network_amd64.go` (address `<subnet base>/32`, MTU, up).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

from tunneld.errors import HostError
from tunneld.fib.state import Device
from tunneld.host.finish import finish
from tunneld.host.netlink import Address, Link, Netlink
from tunneld.host.routes import Routes

_RTM_SETLINK = 19
_NLM_F_REQUEST_ACK = 0x1 | 0x4
_NLMSG_ERROR = 2
_IFLA_AF_SPEC = 26
_IFLA_INET_CONF = 1
_IPV4_DEVCONF_FORWARDING = 1
_IFLA_INET6_ADDR_GEN_MODE = 8
_IN6_ADDR_GEN_MODE_NONE = 1
_NLA_F_NESTED = 0x8000

_log = logging.getLogger("tunneld.host")


class OverlayDevice:
    """The TUN device, found by its name. The device itself was made by `host.tun`."""

    def __init__(self, name: str, netlink: Netlink) -> None:
        self.name = name
        self._netlink = netlink
        self._address: IPv4Address | None = None

    async def link(self) -> Link | None:
        """Returns the kernel's view of the device, or None when it is gone."""
        return await self._netlink.link(self.name)

    async def address(self, index: int) -> IPv4Address | None:
        """Returns our address, or None while there is none."""
        return self._own(await self._addresses(index))

    async def observe(self, link: Link) -> Device | None:
        """Returns the settings; None while the device is down or has no address of ours."""
        address = await self.address(link.index)
        if address is None or not link.is_up:
            return None
        return Device(
            address=address,
            mtu_bytes=link.mtu_bytes,
            txqueuelen=link.txqueuelen,
            forwarding=link.forwarding,
        )

    async def apply(self, link: Link, wanted: Device, routes: Routes) -> None:
        """Brings the device to the wanted settings, and up.

        A new address comes before the old one goes, and the routes move to it in between.
        """
        there = await self._addresses(link.index)
        if not any(one.address == wanted.address and one.prefix_length == 32 for one in there):
            await self._netlink.add_address(link.index, wanted.address, 32)
        await finish(asyncio.to_thread(_set_families, link, wanted.forwarding))
        await self._netlink.set_link(
            link.index, mtu_bytes=wanted.mtu_bytes, txqueuelen=wanted.txqueuelen
        )
        old = self._own(there)
        self._address = wanted.address
        if old is not None and old != wanted.address:
            await routes.change_source(link.index, wanted.address)
            await self._netlink.remove_address(link.index, old, 32)

    def gone(self) -> HostError:
        """Returns the error for a device that somebody removed."""
        return HostError(
            f"overlay device {self.name} is gone; expected it while the daemon runs: somebody "
            "deleted it (`ip link del`), start the daemon again"
        )

    async def _addresses(self, index: int) -> list[Address]:
        return [one for one in await self._netlink.addresses() if one.index == index]

    def _own(self, there: list[Address]) -> IPv4Address | None:
        """Returns our address: the one set last, or the first /32 of a device just found."""
        own = [one.address for one in there if one.prefix_length == 32]
        if self._address is not None:
            return self._address if self._address in own else None
        return own[0] if own else None


def _set_families(link: Link, forwarding: bool) -> None:
    """Sets IPv4 forwarding of a device, and keeps IPv6 off it.

    pyroute2 has no encoder for the per-family settings of a link, hence the bytes.

    Raises:
        HostError: the kernel refuses.
    """
    ipv4 = _nested(
        _IFLA_INET_CONF, _attribute(_IPV4_DEVCONF_FORWARDING, struct.pack("=I", forwarding))
    )
    ipv6 = _attribute(_IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", _IN6_ADDR_GEN_MODE_NONE))
    refused = _set_link_family(link.index, _nested(socket.AF_INET, ipv4))
    if not refused:
        refused = _set_link_family(link.index, _nested(socket.AF_INET6, ipv6))
        if refused == errno.EAFNOSUPPORT:  # there is no IPv6 here to keep quiet
            return
    if refused:
        raise HostError(
            f"cannot set up device {link.name}: {os.strerror(refused)}; expected the kernel to "
            "let its forwarding and IPv6 address mode be set"
        )
    switch = Path(f"/proc/sys/net/ipv6/conf/{link.name}/disable_ipv6")
    try:
        switch.write_text("1", encoding="ascii")
    except OSError as error:
        # With /proc/sys read-only a forwarding host still reports itself to ff02::2 when the
        # device comes up: two packets, dropped and counted as IPv6.
        _log.info(
            "IPv6 stays on the overlay device, without addresses",
            extra={"fields": {"device": link.name, "path": str(switch), "error": error.strerror}},
        )


def _set_link_family(index: int, family: bytes) -> int:
    """Sends one RTM_SETLINK and returns the kernel's error number; 0: done."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    body += _nested(_IFLA_AF_SPEC, family)
    header = struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _NLM_F_REQUEST_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.sendto(header + body, (0, 0))
        answer = route.recv(65536)
    (kind,) = struct.unpack_from("=H", answer, 4)
    (code,) = struct.unpack_from("=i", answer, 16)
    return -code if kind == _NLMSG_ERROR else errno.EPROTO


def _nested(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, payload)


def _attribute(kind: int, payload: bytes) -> bytes:
    """Returns one netlink attribute, padded to 4 bytes."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)
