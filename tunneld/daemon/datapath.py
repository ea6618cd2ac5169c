"""The data path of one network: its descriptors, the engine over them, and what keeps it right.

Path of a lease: `fib.compose` (`desired`) -> **`daemon.datapath`** -> `engine` | `host`.
Every descriptor is opened here, in Python, and closed here: the engine takes duplicates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from ipaddress import IPv4Network
from pathlib import Path

from tunneld.backend.base import Backend
from tunneld.daemon.reconcile import Reconciler
from tunneld.engine import Engine, EngineEvent
from tunneld.fib.state import FirewallMode, State
from tunneld.host.actuator import Actuator, HostEvent
from tunneld.host.netlink import Netlink
from tunneld.host.sockets import open_icmp_socket, open_underlay_sockets
from tunneld.host.state_dir import StateDir
from tunneld.host.tun import open_tun
from tunneld.host.underlay import Underlay


class DataPath:
    """An open overlay device with an engine behind it; made by `open`."""

    def __init__(
        self,
        *,
        device: str,
        network: IPv4Network,
        engine: Engine,
        actuator: Actuator,
        reconciler: Reconciler,
    ) -> None:
        self.device = device
        self.network = network
        self.engine = engine
        self.actuator = actuator
        self.reconciler = reconciler

    @classmethod
    async def open(
        cls,
        stack: AsyncExitStack,
        *,
        backend: Backend,
        underlay: Underlay,
        workers: int,
        network: IPv4Network,
        subnet_file: Path,
        netlink: Netlink,
        state_dir: StateDir,
        desired: Callable[[], State | None],
        firewall: FirewallMode = "auto",
    ) -> DataPath:
        """Opens the sockets and the device, and stands the engine over them.

        `stack` takes everything down again, in reverse order: threads, descriptors, then what
        the host holds of ours.

        Raises:
            PortInUseError: another program has the backend's port.
            TunDeviceError: there is no TUN here, or its names are taken.
            CapabilityError: CAP_NET_ADMIN or CAP_NET_RAW is missing.
        """
        sockets = open_underlay_sockets(underlay.address, backend.port, workers)
        for opened in sockets:
            stack.callback(opened.close)
        icmp = open_icmp_socket()
        stack.callback(icmp.close)
        tun = await open_tun(backend.device_template, workers)
        stack.callback(tun.close)
        actuator = Actuator(
            netlink,
            device=tun.name,
            network=network,
            subnet_file=subnet_file,
            underlay=underlay,
            state_dir=state_dir,
            firewall=firewall,
        )
        stack.push_async_callback(actuator.close)
        engine = Engine(
            tun_fds=tun.fds,
            underlay_fds=[opened.fileno() for opened in sockets],
            icmp_fd=icmp.fileno(),
        )
        stack.callback(engine.stop)
        reconciler = Reconciler(engine=engine, actuator=actuator, desired=desired)
        return cls(
            device=tun.name,
            network=network,
            engine=engine,
            actuator=actuator,
            reconciler=reconciler,
        )

    def start(
        self,
        *,
        on_engine_event: Callable[[EngineEvent], None],
        on_host_event: Callable[[HostEvent], None],
    ) -> None:
        """Starts moving packets, and reporting what comes up. Nothing passes before a FIB is in."""
        self.engine.start()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.engine.event_fd, self._drain, on_engine_event)
        self.actuator.on_change(on_host_event)
        self.actuator.on_change(lambda _event: self.reconciler.wake())

    def quiesce(self) -> None:
        """Stops reporting. To be called before the engine is stopped."""
        asyncio.get_running_loop().remove_reader(self.engine.event_fd)

    def _drain(self, on_engine_event: Callable[[EngineEvent], None]) -> None:
        for event in self.engine.events():
            on_engine_event(event)
