"""Carries a HostChange into the operating system, and reports what it holds of ours.

Path of a lease: `fib` -> **`host.actuator`** -> devices, neighbours, routes, firewall, subnet.env.

Level-triggered: `observe` leaves out whatever is not fully as it was put, so that the
difference to the desired state puts it again. What is not ours is never touched. It decides
nothing: values come in, values go out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from tunneld.errors import HostError, PeerRouteError
from tunneld.fib.diff import host_difference, routes_after
from tunneld.fib.state import FirewallMode, HostChange, HostState, Route, State
from tunneld.host import tun_settings
from tunneld.host.bridges import Bridges
from tunneld.host.device import OverlayDevice, tell_put_back
from tunneld.host.finish import finish
from tunneld.host.firewall import HostFirewall, owner_of
from tunneld.host.forwarding import ForwardingPolicy, GlobalForwarding, Version
from tunneld.host.netlink import DeviceCounters, Link, Netlink
from tunneld.host.routes import Exits, Routes, Sources
from tunneld.host.state_dir import StateDir
from tunneld.host.subnet_env import SubnetFile
from tunneld.host.tun import Tun
from tunneld.host.underlay import Underlay
from tunneld.host.vxlan import VxlanDevices
from tunneld.host.watch import HostEvent, Watch
from tunneld.lease.model import IPAddress, IPNetwork

__all__ = ["Actuator", "HostEvent"]


class Actuator:
    """Everything a daemon holds in the operating system beside its descriptors."""

    def __init__(
        self,
        netlink: Netlink,
        *,
        device: str | None,
        networks: Collection[IPNetwork],
        subnet_file: Path,
        underlay: Underlay,
        name: str | None = None,
        forwarding: ForwardingPolicy = "auto",
        state_dir: StateDir | None = None,
        firewall: FirewallMode = "auto",
        tun: Tun | None = None,
        follows_routes: bool = True,
    ) -> None:
        """Takes hold of what is there; nothing is changed before `apply`.

        Args:
            netlink: an open socket; the caller closes it after this.
            device: name of the TUN device; None: there is none.
            networks: the overlay in each family, IPv4 first: where routes that name no device are
                ours.
            subnet_file: path of subnet.env.
            underlay: the interface whose changes are reported, and by which plain routes lead.
            name: what our firewall is called after, to tell daemons of one host apart, at most
                15 characters; None: the TUN device, or what stands for the network.
            forwarding: whether the host's global switch may be turned on.
            state_dir: where to remember, for after a crash, that we turned it on.
            firewall: by which means the rules are put in force.
            tun: the TUN device's descriptors, by which it is known whatever others do to it.
            follows_routes: whether routes of others matter that lead out of `networks`.
        """
        self._netlink = netlink
        self._device = None if device is None else OverlayDevice(device, netlink, tun)
        self._vxlan = VxlanDevices(netlink, underlay.index)
        self._routes = Routes(netlink, networks)
        self._firewall = HostFirewall(
            name or owner_of([device] if device else [], networks), firewall, netlink.links
        )
        self._forwarding = GlobalForwarding(forwarding, state_dir)
        self._bridges = Bridges(networks)
        self._subnet_env = SubnetFile(subnet_file)
        self._watch = Watch(
            device=device,
            underlay=underlay,
            firewall_tables=lambda: self._firewall.tables,
            firewall_names_devices=lambda: self._firewall.names_devices,
            vxlan_names=lambda: self._vxlan.names,
            routes_within=None if follows_routes else networks,
        )
        self._lock = asyncio.Lock()
        self.known_routes: frozenset[Route] = frozenset()
        """What the kernel is known to have of our routes, by which it reaches peers itself."""

    async def observe(self) -> HostState:
        """Returns what of ours is in place, and in order.

        Raises:
            HostError: the kernel or a file cannot be read.
        """
        async with self._lock:
            links = await self._netlink.links()
            tun = self._tun(links)
            device = await self._device.observe(tun) if self._device and tun else None
            vxlan = await self._vxlan.observe(links)
            routes = await self._routes.observe(await self._exits(links))
            if await asyncio.to_thread(self._forwarding.is_due):
                # What needs it counts as not in order, so that it, and the switch, are put again.
                device = None if device is None else replace(device, forwarding=False)
                vxlan = replace(vxlan, devices=frozenset())
                routes = frozenset(route for route in routes if route.kind != "gateway")
            await self._see_bridges(links)
            self.known_routes = routes
            return HostState(
                device=device,
                vxlan_devices=vxlan.devices,
                neighbours=vxlan.neighbours,
                fdb=vxlan.fdb,
                routes=routes,
                firewall=await self._firewall.observe(),
                subnet_env=await asyncio.to_thread(self._subnet_env.observe),
            )

    async def _see_bridges(self, links: Collection[Link]) -> None:
        if not self._forwarding.is_on_for_ipv4:  # which is a problem of its own, or Docker's affair
            return
        self._bridges.see(
            links,
            await self._netlink.addresses(),
            ours={self._watch.device_index, *self._watch.vxlan_indices},
            now_s=asyncio.get_running_loop().time(),
        )

    def difference(self, desired: State, actual: HostState) -> HostChange:
        """Returns what there is to do to the operating system."""
        return host_difference(desired.host, actual)

    async def routes(self) -> frozenset[Route]:
        """Returns what of our routes is in place, and in order.

        Raises:
            HostError: the kernel cannot be read.
        """
        async with self._lock:
            return await self._observed_routes()

    @property
    def owner(self) -> str:
        """What our tables and chains are called after."""
        return self._firewall.name

    @property
    def forwarding_problems(self) -> tuple[str, ...]:
        """What this host lacks and is not ours to put right, a line each."""
        found = (self._forwarding.problem, self._bridges.problem)
        return tuple(problem for problem in found if problem is not None)

    async def counters(self) -> list[DeviceCounters]:
        """Returns what the kernel has counted on the devices by which it moves our packets.

        Raises:
            HostError: the kernel cannot be read.
        """
        return await self._vxlan.counters()

    async def lost_at(self, device: str) -> dict[str, int]:
        """Returns what the kernel dropped on a device that it does not move packets by itself.

        Raises:
            HostError: the kernel cannot be read.
        """
        counted = [one for one in await self._netlink.device_counters() if one.device == device]
        return {
            "device_queue": sum(one.tx_dropped + one.tx_errors for one in counted),
            "device_refused": sum(one.rx_dropped + one.rx_errors for one in counted),
        }

    async def apply(self, change: HostChange) -> None:
        """Carries out a change: devices, neighbours, routes, firewall, file. May be repeated.

        A cancellation takes effect between two steps.

        Raises:
            PeerRouteError: what leads to some peers cannot be put; everything else is done.
            HostError: what failed; what came before it in that order is done, and after routes
                also the firewall: it serves those that are there.
        """
        async with self._lock:
            if families := _forwarded_families(change):
                await finish(asyncio.to_thread(self._forwarding.switch_on, families))
            await self._apply_devices(change)
            refusal: HostError | None = None
            try:
                await self._apply_paths(change)
            except HostError as error:
                refusal = error
            if change.firewall is not None:
                await self._firewall.apply(change.firewall)
            # What some peers lack keeps nothing from the others, nor from the containers.
            if refusal is not None and not isinstance(refusal, PeerRouteError):
                raise refusal
            if change.subnet_env is not None:
                await finish(asyncio.to_thread(self._subnet_env.put, change.subnet_env))
            if refusal is not None:
                self.known_routes = await self._observed_routes()
                raise refusal
            self.known_routes = routes_after(self.known_routes, change)

    def on_change(self, callback: Callable[[HostEvent], None]) -> None:
        """Calls back on the running loop whenever something of ours may have changed.

        Raises:
            HostError: the kernel cannot be watched.
        """
        self._watch.on_change(callback)

    @property
    def problem(self) -> str | None:
        """What is not watched, in one line; None: nothing."""
        return self._watch.problem

    async def differs(self) -> bool:
        """Says whether something no event tells of is not as it was put. Cheap."""
        self._watch.try_again()
        if self._device is not None and self._device.differs():
            return True
        return await asyncio.to_thread(self._subnet_env.has_changed)

    def look_again(self) -> None:
        """Calls all callbacks back, for every event there is."""
        self._watch.look_again()

    def device_features(self) -> bytes:
        """Returns what the kernel may leave to the TUN device; empty: unknown."""
        return b"" if self._device is None else tun_settings.features(self._device.name)

    def tell_put_back(self, done: str) -> None:
        """Says what somebody has done to the TUN device, now that it is undone."""
        if self._device is not None:
            tell_put_back(self._device.name, done)

    async def require_device(self) -> None:
        """Returns while the TUN device is there, or none is in use.

        Raises:
            DeviceLostError: it is gone.
        """
        if self._device is not None and await self._device.link() is None:
            raise self._device.gone()

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Calls back whenever the kernel has answered: what takes long then does not hang."""
        self._netlink.on_progress = callback

    def watch_underlay(self, underlay: Underlay) -> None:
        """Makes another interface the one whose changes are reported."""
        self._watch.underlay = underlay
        self._vxlan.underlay = underlay.index

    async def close(self, *, keep_subnet_env: bool = True, hands_over: bool = False) -> None:
        """Takes everything of ours away but, by default, subnet.env.

        A vxlan device is deleted. The TUN device ends with its descriptors. With `hands_over` the
        firewall's rules and the forwarding switch stay as they are, for another one of the same
        name that takes them over at once; they take longest to make.

        Raises:
            HostError: what could not be taken away; everything else is.
        """
        self._watch.close()
        async with self._lock:
            exits = await self._exits(await self._netlink.links())
            failures = []
            steps: tuple[Callable[[], Awaitable[None]], ...] = (
                self._firewall.clear,
                self._vxlan.clear,  # and with it, at once, all routes that lead there
                lambda: self._routes.clear(exits),
                self._restore_forwarding,
            )
            for step in steps[1:3] if hands_over else steps:
                try:
                    await step()
                except (HostError, OSError) as error:
                    failures.append(str(error))
            if not keep_subnet_env:
                self._subnet_env.path.unlink(missing_ok=True)
        if failures:
            raise HostError("; ".join(failures))

    async def _restore_forwarding(self) -> None:
        translated: Collection[Version] = ()
        if self._forwarding.is_ours:
            translated = await self._firewall.translated_by_others()
        ours = [*self._vxlan.names, *([self._device.name] if self._device else [])]
        await asyncio.to_thread(self._forwarding.restore, ours, translated)

    async def _apply_devices(self, change: HostChange) -> None:
        if change.device is not None or any(one.kind == "overlay" for one in change.put_routes):
            tun = self._tun(await self._netlink.links())
            if self._device is None:
                raise ValueError("a change of the TUN device, where there is none")
            if tun is None:
                raise self._device.gone()
            if change.device is not None:
                await self._device.apply(tun, change.device, self._routes)
        for wanted in sorted(change.put_vxlan_devices, key=lambda one: one.name):
            await self._vxlan.put(wanted)
        for dropped in change.drop_vxlan_devices:
            await self._vxlan.drop(dropped)

    async def _apply_paths(self, change: HostChange) -> None:
        """Neighbours and FDB come before the routes that need them, and go after them."""
        entries = (change.put_neighbours, change.put_fdb)
        dropped = (change.drop_neighbours, change.drop_fdb)
        if not any((*entries, *dropped, change.put_routes, change.drop_routes)):
            return
        exits = await self._exits(await self._netlink.links())
        refusals: list[PeerRouteError] = []
        put, drop = change.put_routes, change.drop_routes
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            lambda: self._vxlan.put_entries(exits.vxlan, *entries),
            lambda: self._routes.apply(exits, put=put, drop=drop),
        )
        for step in steps:
            try:
                await step()
            except PeerRouteError as error:
                refusals.append(error)
        await self._vxlan.drop_entries(exits.vxlan, *dropped)
        if refusals:
            raise PeerRouteError("; ".join(map(str, refusals)))

    async def _observed_routes(self) -> frozenset[Route]:
        return await self._routes.observe(await self._exits(await self._netlink.links()))

    def _tun(self, links: Iterable[Link]) -> Link | None:
        if self._device is None:
            return None
        return self._device.among(links)

    async def _exits(self, links: Collection[Link]) -> Exits:
        """Returns where our routes lead out, and lets these devices be watched."""
        tun = self._tun(links)
        underlay = self._watch.underlay.index
        exits = Exits(
            overlay=None if tun is None else tun.index,
            sources=await self._device.sources(tun) if self._device and tun else Sources(),
            underlay=underlay if any(link.index == underlay for link in links) else None,
            vxlan={link.name: link.index for link in links if link.name in self._vxlan.names},
        )
        self._watch.device_index = exits.overlay or 0
        self._watch.vxlan_indices = frozenset(exits.vxlan.values())
        return exits


def _forwarded_families(change: HostChange) -> set[Version]:
    """Returns the families of which the change lets packets in that come by other devices too."""
    addresses: list[IPAddress] = [device.address for device in change.put_vxlan_devices]
    addresses += [
        route.gateway
        for route in change.put_routes
        if route.kind == "gateway" and route.gateway is not None
    ]
    device = change.device
    if device is not None and device.forwarding:
        addresses += [one for one in (device.address, device.address_v6) if one is not None]
    return {4 if address.version == 4 else 6 for address in addresses}
