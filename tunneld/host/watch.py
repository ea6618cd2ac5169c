"""Says which of our things in the operating system may have changed, and when to look.

Path of a lease: the kernel -> `host.monitor` -> **`host.watch`** -> the daemon, which compares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Literal

from tunneld.host.monitor import Monitor, Notice
from tunneld.host.routes import PROTOCOL
from tunneld.host.underlay import Underlay
from tunneld.lease.model import IPNetwork

HostEvent = Literal["device", "neighbours", "routes", "firewall", "underlay", "on_link"]
"""What may have changed behind our back (or by our own hand: that is not told apart). `device`:
the TUN device or a vxlan one. `neighbours`: also their FDB. `on_link`: routes of others, by which
an underlay address may now be reached in another way."""

_OF_ROUTES: tuple[HostEvent, ...] = ("routes", "underlay", "on_link")

DELAY_S = 0.01
"""How long after its first change the firewall, or the routing, is looked at: a change has more
than one message."""

INTERVAL_S = 0.2
"""Least time between two looks at one that keeps changing."""


class Watch:
    """Turns the kernel's notices into events."""

    def __init__(
        self,
        *,
        device: str | None,
        underlay: Underlay,
        firewall_tables: Callable[[], frozenset[str]],
        firewall_names_devices: Callable[[], bool] = lambda: False,
        vxlan_names: Callable[[], Collection[str]],
        routes_within: Collection[IPNetwork] | None = None,
    ) -> None:
        """`device` is the TUN device's name; the calls tell what is ours at the moment.

        `routes_within`: where routes of others matter; None: wherever they lead.
        """
        self._routes_within = routes_within
        self._lost = _Calm(self._report_lost)
        self._due: set[HostEvent] = set()
        self.underlay = underlay
        self.device_index = 0
        self.vxlan_indices: frozenset[int] = frozenset()
        self._device = device
        self._firewall_tables = firewall_tables
        self._firewall_names_devices = firewall_names_devices
        self._vxlan_names = vxlan_names
        self._callbacks: list[Callable[[HostEvent], None]] = []
        self._monitor: Monitor | None = None
        self._calm: dict[HostEvent, _Calm] = {
            event: _Calm(lambda event=event: self._report(event))  # type: ignore[misc]
            for event in ("firewall", "on_link")
        }

    def on_change(self, callback: Callable[[HostEvent], None]) -> None:
        """Calls back on the running loop from now on.

        Raises:
            HostError: the kernel cannot be watched.
        """
        if self._monitor is None:
            self._monitor = Monitor(
                self._notice, routes_within=self._routes_within, protocol=PROTOCOL
            )
        self._callbacks.append(callback)

    @property
    def problem(self) -> str | None:
        """What is not watched, in one line; None: nothing."""
        return None if self._monitor is None else self._monitor.problem

    def try_again(self) -> None:
        """Watches what could not be watched before, if it can be now. Cheap."""
        if self._monitor is not None:
            self._monitor.watch_lock()

    def look_again(self) -> None:
        """Reports every event there is, whether or not something has happened."""
        self._notice(Notice(kind="lost"))

    def close(self) -> None:
        """Stops watching."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        for calm in (*self._calm.values(), self._lost):
            calm.cancel()

    def _report_lost(self) -> None:
        for event in _OF_ROUTES:
            self._report(event)

    def _notice(self, notice: Notice) -> None:
        if notice.kind == "lost routes":  # in a flood there is one look for many
            self._lost.report_soon()
            return
        for event in self._events(notice):
            if event in self._calm:
                self._calm[event].report_soon()
            elif event not in self._due:  # a batch of changes is told of once
                self._due.add(event)
                asyncio.get_running_loop().call_soon(self._report_due, event)

    def _report_due(self, event: HostEvent) -> None:
        self._due.discard(event)
        if self._monitor is not None:
            self._report(event)

    def _report(self, event: HostEvent) -> None:
        for callback in self._callbacks:
            callback(event)

    def _events(self, notice: Notice) -> Iterator[HostEvent]:
        """Returns which of our things a notice may touch."""
        is_vxlan = notice.index != 0 and notice.index in self.vxlan_indices
        is_ours = is_vxlan or (notice.index != 0 and notice.index == self.device_index)
        is_underlay = notice.index == self.underlay.index
        match notice.kind:
            case "lost":
                yield from ("device", "neighbours", "routes", "firewall", "underlay", "on_link")
            case "link" if is_ours or self._is_our_name(notice.name):
                yield "device"
            case "link" if is_underlay or notice.name == self.underlay.name:
                yield from ("underlay", "on_link")
            case "address" if is_ours:
                yield "device"
            case "address" if is_underlay:
                yield "underlay"
            case "neighbour" if is_vxlan:
                yield "neighbours"
            case "forwarding" if is_ours or notice.index == 0:
                yield "device"
            case "route" if is_ours or notice.protocol == PROTOCOL:
                yield "routes"
            case "route":
                yield "on_link"
                if notice.is_default:
                    yield "underlay"
            case "firewall" if notice.makes_nat or self._firewall_tables() & notice.tables:
                yield "firewall"
            case "iptables" | "link" if notice.kind == "iptables" or self._firewall_names_devices():
                yield "firewall"

    def _is_our_name(self, name: str) -> bool:
        return bool(name) and (name == self._device or name in self._vxlan_names())


class _Calm:
    """Reports many changes in a row, as Docker's start makes them, a few times only."""

    def __init__(self, report: Callable[[], None]) -> None:
        self._callback = report
        self._timer: asyncio.TimerHandle | None = None
        self._reported_s = 0.0
        """Time of the loop."""

    def report_soon(self) -> None:
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        due_s = max(loop.time() + DELAY_S, self._reported_s + INTERVAL_S)
        self._timer = loop.call_at(due_s, self._report)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _report(self) -> None:
        self._timer = None
        self._reported_s = asyncio.get_running_loop().time()
        self._callback()
