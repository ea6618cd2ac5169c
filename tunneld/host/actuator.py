"""Carries a HostChange into the operating system, and reports what it holds of ours.

Path of a lease: `fib` -> **`host.actuator`** -> device, routes, firewall, subnet.env.

Level-triggered: `observe` leaves out whatever is not fully as it was put, so that the
difference to the desired state puts it again. What is not ours is never touched. It decides
nothing: values come in, values go out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

from tunneld.errors import HostError
from tunneld.fib.state import FirewallMode, HostChange, HostState, SubnetEnv
from tunneld.host import subnet_env
from tunneld.host.device import OverlayDevice
from tunneld.host.finish import finish
from tunneld.host.firewall import HostFirewall
from tunneld.host.forwarding import ForwardingPolicy, GlobalForwarding
from tunneld.host.monitor import Monitor, Notice
from tunneld.host.netlink import Netlink
from tunneld.host.routes import PROTOCOL, Routes
from tunneld.host.state_dir import StateDir
from tunneld.host.underlay import Underlay

HostEvent = Literal["device", "routes", "firewall", "underlay"]
"""What may have changed behind our back (or by our own hand: that is not told apart)."""

FIREWALL_DELAY_S = 0.01
"""How long after its first change the firewall is looked at: a change has more than one message."""

FIREWALL_INTERVAL_S = 0.2
"""Least time between two looks at a firewall that keeps changing."""


class Actuator:
    """Everything a daemon holds in the operating system beside its descriptors."""

    def __init__(
        self,
        netlink: Netlink,
        *,
        device: str,
        network: IPv4Network | None,
        subnet_file: Path,
        underlay: Underlay,
        forwarding: ForwardingPolicy = "auto",
        state_dir: StateDir | None = None,
        firewall: FirewallMode = "auto",
    ) -> None:
        """Takes hold of what is there; nothing is changed before `apply`.

        Args:
            netlink: an open socket; the caller closes it after this.
            device: name of the overlay device.
            network: where routes that name no device are ours; None: everywhere.
            subnet_file: path of subnet.env.
            underlay: the interface whose changes are reported.
            forwarding: whether the host's global switch may be turned on.
            state_dir: where to remember, for after a crash, that we turned it on.
            firewall: by which means the rules are put in force.
        """
        self._device = OverlayDevice(device, netlink)
        self._routes = Routes(netlink, network)
        self._firewall = HostFirewall(device, firewall)
        self._forwarding = GlobalForwarding(forwarding, state_dir)
        self._subnet_file = subnet_file
        self._underlay = underlay
        self._device_index = 0
        self._callbacks: list[Callable[[HostEvent], None]] = []
        self._monitor: Monitor | None = None
        self._firewall_report: asyncio.TimerHandle | None = None
        self._firewall_reported_s = 0.0
        """Time of the loop."""
        self._lock = asyncio.Lock()

    async def observe(self) -> HostState:
        """Returns what of ours is in place, and in order.

        Raises:
            HostError: the kernel or a file cannot be read.
        """
        async with self._lock:
            link = await self._device.link()
            self._device_index = link.index if link else 0
            device = await self._device.observe(link) if link else None
            return HostState(
                device=device,
                routes=await self._routes.observe(
                    link.index if link else None, device.address if device else None
                ),
                firewall=await self._firewall.observe(),
                subnet_env=await asyncio.to_thread(self._read_subnet_env),
            )

    async def apply(self, change: HostChange) -> None:
        """Carries out a change: device, routes, firewall, file. May be repeated.

        A cancellation takes effect between two steps.

        Raises:
            HostError: what failed; what came before it in that order is done.
        """
        async with self._lock:
            link = await self._device.link()
            if link is not None:
                self._device_index = link.index
            elif change.device or change.put_routes:
                raise self._device.gone()
            if change.device is not None and link is not None:
                if change.device.forwarding:
                    await finish(asyncio.to_thread(self._forwarding.switch_on))
                await self._device.apply(link, change.device, self._routes)
            if change.put_routes or change.drop_routes:
                await self._routes.apply(
                    self._device_index,
                    await self._device.address(self._device_index),
                    put=change.put_routes,
                    drop=change.drop_routes,
                )
            if change.firewall is not None:
                await self._firewall.apply(change.firewall)
            if change.subnet_env is not None:
                await finish(
                    asyncio.to_thread(subnet_env.write, self._subnet_file, change.subnet_env)
                )

    def on_change(self, callback: Callable[[HostEvent], None]) -> None:
        """Calls back on the running loop whenever something of ours may have changed.

        Raises:
            HostError: the kernel cannot be watched.
        """
        if self._monitor is None:
            self._monitor = Monitor(self._notice)
        self._callbacks.append(callback)

    def watch_underlay(self, underlay: Underlay) -> None:
        """Makes another interface the one whose changes are reported."""
        self._underlay = underlay

    async def close(self, *, keep_subnet_env: bool = True) -> None:
        """Takes everything of ours away but, by default, subnet.env. The device ends with its fds.

        Raises:
            HostError: what could not be taken away; everything else is.
        """
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._firewall_report is not None:
            self._firewall_report.cancel()
        async with self._lock:
            link = await self._device.link()
            failures = []
            for step in (
                self._firewall.clear(),
                self._routes.clear(link.index if link else None),
                asyncio.to_thread(self._forwarding.restore),
            ):
                try:
                    await step
                except HostError as error:
                    failures.append(str(error))
            if not keep_subnet_env:
                self._subnet_file.unlink(missing_ok=True)
        if failures:
            raise HostError("; ".join(failures))

    def _read_subnet_env(self) -> SubnetEnv | None:
        """Returns what subnet.env says, if it is written as we write it."""
        text = subnet_env.read_text(self._subnet_file)
        if text is None:
            return None
        value = subnet_env.parse(text)
        return value if subnet_env.render(value) == text else None

    def _notice(self, notice: Notice) -> None:
        for event in self._events(notice):
            if event == "firewall":
                self._report_firewall_soon()
            else:
                self._report(event)

    def _report(self, event: HostEvent) -> None:
        for callback in self._callbacks:
            callback(event)

    def _report_firewall_soon(self) -> None:
        """Reports many changes in a row, as Docker's start makes them, a few times only."""
        if self._firewall_report is not None:
            return
        loop = asyncio.get_running_loop()
        due_s = max(loop.time() + FIREWALL_DELAY_S, self._firewall_reported_s + FIREWALL_INTERVAL_S)
        self._firewall_report = loop.call_at(due_s, self._report_firewall)

    def _report_firewall(self) -> None:
        self._firewall_report = None
        self._firewall_reported_s = asyncio.get_running_loop().time()
        self._report("firewall")

    def _events(self, notice: Notice) -> Iterator[HostEvent]:
        """Returns which of our things a notice may touch."""
        is_ours = notice.index != 0 and notice.index == self._device_index
        is_underlay = notice.index == self._underlay.index
        match notice.kind:
            case "lost":
                yield from ("device", "routes", "firewall", "underlay")
            case "link" if is_ours or notice.name == self._device.name:
                yield "device"
            case "link" if is_underlay or notice.name == self._underlay.name:
                yield "underlay"
            case "address" if is_ours:
                yield "device"
            case "address" if is_underlay:
                yield "underlay"
            case "forwarding" if is_ours or notice.index == 0:
                yield "device"
            case "route" if notice.is_default:
                yield "underlay"
            case "route" if is_ours or notice.protocol == PROTOCOL:
                yield "routes"
            case "firewall" if self._firewall.tables & notice.tables:
                yield "firewall"
            case "iptables":
                yield "firewall"
