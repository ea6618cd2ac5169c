"""Bridges of containers that this host lets nothing through: their own forwarding switch is off.

Path of a packet: container -> **its bridge** -> the overlay's device. The kernel asks two switches
of an IPv4 packet that is to be forwarded, the global one (`host.forwarding`) and that of the device
it came by. The second is nobody's to put on but the bridge's owner's; here it is only named.

Source: Linux net/ipv4/route.c (`ip_route_input_slow`, IN_DEV_FORWARD).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from tunneld.host.netlink import Address, Link
from tunneld.lease.model import IPNetwork
from tunneld.log import Condition

_log = logging.getLogger("tunneld.host")


class Bridges:
    """Those that have an address in the overlay."""

    def __init__(self, networks: Collection[IPNetwork]) -> None:
        self._networks = networks
        self._lack = Condition(
            _log, "bridges of containers forward nothing", "all bridges of containers forward"
        )

    @property
    def problem(self) -> str | None:
        """Which bridges forward nothing, in one line; None: all do."""
        return self._lack.problem

    def see(
        self,
        links: Iterable[Link],
        addresses: Iterable[Address],
        *,
        ours: Collection[int],
        now_s: float,
    ) -> None:
        """Takes the devices as they are, while the global switch is on; `ours` are overlay ones."""
        inside = {
            one.index
            for one in addresses
            if any(
                one.address.version == net.version and one.address in net for net in self._networks
            )
        }
        names = sorted(
            link.name
            for link in links
            if link.index in inside and link.index not in ours and not link.forwarding
        )
        if not names:
            self._lack.clear()
            return
        switches = [f"net.ipv4.conf.{name.replace('.', '/')}.forwarding" for name in names]
        commands = " and ".join(f"`sysctl -w {switch}=1`" for switch in switches)
        self._lack.set(
            now_s,
            f"{', '.join(names)}: packets that come by there are not forwarded "
            f"({' and '.join(switches)} = 0); expected 1, or containers there reach no other host: "
            f"see who switched it off, and run {commands}",
        )
