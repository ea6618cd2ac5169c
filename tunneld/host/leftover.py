"""Devices that a flanneld, or a daemon of ours that was killed, has left behind.

A vxlan device of theirs bears flannel's name and has the VNI, UDP port and underlay address of
our network, or an address that this host no longer has, so that nobody can use it.
The kernel data path takes it over as it is (`host.vxlan`). For the user-space one it is in the
way of the TUN device of that name and of the sockets, and is removed. Whatever else bears the
name is somebody's, and refused with the reason.

Source: flannel `pkg/backend/vxlan/vxlan.go` (names of the devices).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Collection

from tunneld.errors import HostError
from tunneld.host.finish import finish
from tunneld.host.netlink import Link, Netlink
from tunneld.host.takeover import flanneld_pids
from tunneld.lease.model import IPAddress

_log = logging.getLogger("tunneld.host")


async def remove_vxlan_devices(
    netlink: Netlink, *, device: str, vni: int, port: int, addresses: Collection[IPAddress]
) -> tuple[str, ...]:
    """Removes the kernel devices that are in the way of our TUN device; returns their names.

    To be called before the sockets and the TUN device are opened.

    Args:
        netlink: an open socket.
        device: name of the TUN device to be.
        vni: of our network.
        port: UDP port of our network.
        addresses: underlay addresses of this host.

    Raises:
        HostError: the device of that name is not left over from anybody, or still in use.
    """
    removed = []
    held = await _held(netlink)
    for link in await netlink.links():
        if link.name not in {device, f"flannel.{vni}", f"flannel-v6.{vni}"}:
            continue
        if link.name != device and strangeness(link, vni, port, addresses, held):
            continue
        if link.kind == "tun":  # a daemon of ours that is just ending: `host.tun` waits for it
            continue
        await require_leftover(netlink, link, vni, port, addresses)
        await netlink.remove_link(link.index)
        removed.append(link.name)
        _log.warning(
            "removed a vxlan device that was left behind",
            extra={"fields": {"device": link.name, "port": port, "detail": f"VNI {vni}"}},
        )
    return tuple(removed)


async def remove_own_tuns(netlink: Netlink, template: str) -> tuple[str, ...]:
    """Removes TUN devices that bear our name and are ours, held by nobody; returns their names.

    One that somebody made persistent outlives a daemon that is killed, and is in the way of the
    next. It is known by its owner, which no other program gives to a device of that name.
    """
    name = re.compile(re.escape(template).replace("%d", "[0-9]+"))
    ours = (os.geteuid(), os.getegid())
    removed = []
    for link in await netlink.links():
        if link.tun is None or not name.fullmatch(link.name):
            continue
        is_left = link.tun.is_persistent and link.tun.queues == 0
        if is_left and (link.tun.owner, link.tun.group) == ours:
            await netlink.remove_link(link.index)
            removed.append(link.name)
            _log.warning(
                "removed a TUN device that was left behind",
                extra={"fields": {"device": link.name}},
            )
    return tuple(removed)


async def require_leftover(
    netlink: Netlink, link: Link, vni: int, port: int, addresses: Collection[IPAddress]
) -> None:
    """Returns when a device may be taken over.

    Raises:
        HostError: it is somebody else's, or a flanneld that runs uses it.
    """
    if reason := strangeness(link, vni, port, addresses, await _held(netlink)):
        raise HostError(
            f"cannot make device {link.name}: there is one of that name, and {reason}; expected "
            "none, or what a flanneld of this network left: remove it with `ip link delete "
            f"{link.name}`, or choose another Backend.VNI"
        )
    if pids := await finish(asyncio.to_thread(flanneld_pids)):
        raise HostError(
            f"cannot take over device {link.name}: flanneld (process {pids[0]}) runs on this host "
            "and uses it; expected it stopped: one of the two can serve a network"
        )


def strangeness(
    link: Link,
    vni: int,
    port: int,
    addresses: Collection[IPAddress],
    held: Collection[IPAddress],
) -> str:
    """Returns why a device cannot be what a flanneld of this network left; empty: it can. Pure.

    `held` are all addresses of this host.
    """
    there = link.vxlan
    if there is None:
        return f"it is of kind {link.kind or 'hardware'}, not vxlan"
    if there.vni != vni:
        return f"its VNI is {there.vni}, not {vni}"
    if there.port != port:
        return f"its UDP port is {there.port}, not {port}"
    if there.local in held and there.local not in addresses:
        return f"its address is {there.local}, not {' or '.join(map(str, addresses))}"
    return ""


async def _held(netlink: Netlink) -> frozenset[IPAddress]:
    there = [*await netlink.addresses(4), *await netlink.addresses(6)]
    return frozenset(one.address for one in there)
