"""The data path of one network: its descriptors, the engine over them, and what keeps it right.

Path of a lease: `fib.compose` (`desired`) -> **`daemon.datapath`** -> `engine` | `host`.
Every descriptor is opened here, in Python. The engine takes duplicates, and of the sockets keeps
the only ones: a number that stayed here might once be somebody else's descriptor. Where the kernel
moves the packets, or nobody does, there are no descriptors and no engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from tunneld.backend.base import Backend, Here
from tunneld.config import ThreadsChoice
from tunneld.daemon.reconcile import Reconciler
from tunneld.engine import Encryption, Engine, EngineEvent, UnderlaySockets
from tunneld.errors import HostError, PortInUseError
from tunneld.fib.executor import Executor
from tunneld.fib.state import FirewallMode, State
from tunneld.host.actuator import Actuator, HostEvent
from tunneld.host.finish import finish
from tunneld.host.leftover import remove_own_tuns, remove_vxlan_devices
from tunneld.host.netlink import Netlink
from tunneld.host.remains import Living, Presence, remove_devices_and_routes
from tunneld.host.sockets import (
    WorkerSockets,
    open_encryption_sockets,
    open_icmp6_socket,
    open_icmp_socket,
    open_underlay_sockets,
)
from tunneld.host.state_dir import StateDir
from tunneld.host.tun import Tun, open_tun
from tunneld.host.underlay import Underlay
from tunneld.lease.model import SubnetKey

_log = logging.getLogger("tunneld.daemon")

CORES_TO_SPLIT: Final = 4
"""Two for the directions, and as many for the programs whose packets these are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How a data path encrypts."""

    encryption: Encryption
    port: int
    """UDP, of encryption."""
    needs_plain: bool
    """Whether packets come and go in plain: the backend's port must be open."""
    needs_sealed: bool
    """Whether packets are encrypted: the port must be open."""
    is_live: bool
    """Whether either may come to be: both ports are opened, if they are free."""


class Handover:
    """What a data path leaves in place for the next one: some of it takes long to make."""

    def __init__(self) -> None:
        self.is_due = False
        """Whether another data path follows at once on the one that is taken away next."""
        self._left: dict[str, Actuator] = {}

    async def take_away(self, name: str, actuator: Actuator) -> None:
        """Takes away what the host holds of ours under a name, to the end, come what may.

        What cannot be taken away is told and no more: the next data path, or the stop, must go on.
        """
        is_due, self.is_due = self.is_due, False
        if is_due:
            self._left.setdefault(name, actuator)
            await _close(actuator, hands_over=True)
            return
        await _close(actuator)
        # What took nothing over yet knows of nothing to take away.
        if (before := self._left.pop(name, None)) is not None:
            await _close(before)

    def is_taken_over(self, name: str) -> None:
        """Says that a data path carries packets under a name, with all that was left there."""
        self._left.pop(name, None)

    async def end(self) -> None:
        """Takes away what was left for a data path that did not come."""
        for name in tuple(self._left):
            await _close(self._left.pop(name))


async def _close(actuator: Actuator, *, hands_over: bool = False) -> None:
    try:
        await finish(actuator.close(hands_over=hands_over))
    except HostError as error:
        _log.error(
            "something of ours could not be taken away", extra={"fields": {"error": str(error)}}
        )


class DataPath:
    """What carries packets, and what keeps the host as that needs it; made by `open`."""

    def __init__(
        self,
        *,
        device: str | None,
        devices: tuple[str, ...],
        engine: Engine | None,
        actuator: Actuator,
        reconciler: Reconciler,
        has_both: bool,
    ) -> None:
        self.has_both = has_both
        """Whether the sockets for plain packets and those for ESP are open."""
        self.device = device
        """Name of the TUN device; None: there is none."""
        self.devices = devices
        """Names of all devices of the overlay, the TUN device or the kernel's."""
        self.engine = engine
        """None: the kernel moves the packets, or nobody does."""
        self.actuator = actuator
        self.reconciler = reconciler

    @classmethod
    async def open(
        cls,
        stack: AsyncExitStack,
        *,
        backend: Backend,
        here: Here,
        underlay: Underlay,
        workers: int,
        threads: ThreadsChoice,
        network: SubnetKey,
        subnet_file: Path,
        netlink: Netlink,
        state_dir: StateDir,
        desired: Callable[[], State | None],
        handover: Handover,
        firewall: FirewallMode = "auto",
        sealing: Sealing | None = None,
    ) -> DataPath:
        """Opens what the backend's data path needs, and nothing for those that need nothing.

        `network` is the whole overlay, in each of its families; `handover` takes things down. With
        `sealing` None nothing is encrypted.

        `stack` takes everything down again, in reverse order: threads, descriptors, then what
        the host holds of ours.

        Raises:
            PortInUseError: another program has the backend's port, or that of encryption.
            TunDeviceError: there is no TUN here, or its names are taken.
            CapabilityError: CAP_NET_ADMIN or CAP_NET_RAW is missing.
        """
        await remove_devices_and_routes(
            netlink,
            keep=[wanted.name for wanted in backend.devices(here, network)],
            networks=network.subnets,
        )
        opened = None
        if backend.datapath == "userspace":
            await _clear_the_way(backend, here, underlay, netlink)
            opened = await _open_descriptors(
                stack, backend, underlay, workers, netlink, sealing=sealing
            )
        device = None if opened is None else opened.tun.name
        # The names are the same whatever subnet this host gets.
        kernels = tuple(wanted.name for wanted in backend.devices(here, network))
        devices = kernels if device is None else (device, *kernels)
        actuator = Actuator(
            netlink,
            device=device,
            name=next(iter(devices), None),
            networks=network.subnets,
            subnet_file=subnet_file,
            underlay=underlay,
            state_dir=state_dir,
            firewall=firewall,
            tun=None if opened is None else opened.tun,
            follows_routes=backend.wants_on_link,
        )
        presence = Presence(
            Living(
                owner=actuator.owner,
                devices=frozenset(devices),
                networks=frozenset(network.subnets),
            )
        )
        stack.callback(presence.close)
        stack.push_async_callback(handover.take_away, name_of(devices), actuator)
        engine = None
        if opened is not None:
            cores = len(os.sched_getaffinity(0))
            engine = opened.engine(
                split=splits(threads, cores),
                encryption=None if sealing is None or not opened.sealed else sealing.encryption,
            )
            stack.callback(engine.stop)
        # In this order: to look at the host takes its time, and what a new peer sends is for us as
        # soon as it is in the engine.
        executors: list[Executor[Any, Any]] = [actuator]
        if engine is not None:
            executors.insert(0, engine)
        reconciler = Reconciler(executors, desired)
        actuator.on_progress(reconciler.moves_on)
        return cls(
            device=device,
            devices=devices,
            engine=engine,
            actuator=actuator,
            reconciler=reconciler,
            has_both=opened is not None and opened.has_plain and bool(opened.sealed),
        )

    async def kernel_drops(self) -> dict[str, int]:
        """Returns what the kernel dropped before the engine saw it, or after, by where.

        `device_queue`: of containers and this host, as the engine did not keep up;
        `device_refused`: written by the engine; `receive_buffer`: of peers. None where there is no
        engine.

        Raises:
            HostError: the kernel cannot be read.
        """
        if self.device is None or self.engine is None:
            return {}
        lost = await self.actuator.lost_at(self.device)
        return {**lost, "receive_buffer": self.engine.counters().receive_drops}

    def start(
        self,
        *,
        on_engine_event: Callable[[EngineEvent], None],
        on_host_event: Callable[[HostEvent], None],
    ) -> None:
        """Starts moving packets, and reporting what comes up. Nothing passes before a FIB is in."""
        if self.engine is not None:
            self.engine.start()
            loop = asyncio.get_running_loop()
            loop.add_reader(self.engine.event_fd, _drain, self.engine, on_engine_event)
        self.actuator.on_change(on_host_event)
        # Routes of others leave what is ours as it is: whoever follows them says what to change.
        self.actuator.on_change(
            lambda event: None if event == "on_link" else self.reconciler.wake()
        )

    def quiesce(self) -> None:
        """Stops reporting. To be called before the engine is stopped."""
        if self.engine is not None:
            asyncio.get_running_loop().remove_reader(self.engine.event_fd)


def name_of(devices: Sequence[str]) -> str:
    """Returns by which name a data path is known that has these devices."""
    return next(iter(devices), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Descriptors:
    """What the engine works on."""

    tun: Tun
    workers: Sequence[WorkerSockets]
    sealed: Sequence[WorkerSockets]
    """On the port of encryption, of the same workers; empty: nothing is encrypted."""
    has_plain: bool
    """Whether the backend's port is open."""
    icmp: socket.socket | None
    icmp6: socket.socket | None
    sockets: ExitStack
    """Closes all but the device."""

    def engine(self, *, split: bool, encryption: Encryption | None) -> Engine:
        """Makes the engine, and closes the sockets that it has duplicates of."""
        engine = Engine(
            tun_fds=self.tun.fds,
            underlay=[
                UnderlaySockets(**plain.descriptors(), **_of_encryption(sealed))
                for plain, sealed in zip_longest(
                    self.workers, self.sealed, fillvalue=WorkerSockets()
                )
            ],
            icmp_fd=None if self.icmp is None else self.icmp.fileno(),
            icmp6_fd=None if self.icmp6 is None else self.icmp6.fileno(),
            split=split,
            encryption=encryption,
        )
        self.sockets.close()
        return engine


def _of_encryption(worker: WorkerSockets) -> dict[str, list[int]]:
    found = worker.descriptors()
    return {
        "esp_ipv4": found["ipv4"],
        "esp_ipv6": found["ipv6"],
        "esp_ipv4_sidings": found["ipv4_sidings"],
        "esp_ipv6_sidings": found["ipv6_sidings"],
    }


def splits(choice: ThreadsChoice, cores: int) -> bool:
    """Returns whether each direction of a worker gets a thread of its own.

    Two threads move more at once where each has a core, and wake each other for every
    acknowledgment; where cores are short, one thread spares that (docs/adr/0007).
    """
    return choice == "split" or (choice == "auto" and cores >= CORES_TO_SPLIT)


async def _clear_the_way(
    backend: Backend, here: Here, underlay: Underlay, netlink: Netlink
) -> None:
    """Removes what a flanneld, or a daemon of ours, has left in the place of our device."""
    template, port, vtep = backend.device_template, backend.port, backend.vtep(here)
    if template is not None:
        await remove_own_tuns(netlink, template)
    if template is not None and port is not None and vtep is not None:
        await remove_vxlan_devices(
            netlink, device=template, vni=vtep.vni, port=port, addresses=underlay.addresses
        )


async def _open_descriptors(
    stack: AsyncExitStack,
    backend: Backend,
    underlay: Underlay,
    workers: int,
    netlink: Netlink,
    *,
    sealing: Sealing | None,
) -> _Descriptors:
    template, port = backend.device_template, backend.port
    if template is None or port is None:
        raise ValueError(f"backend {backend.type} has no device, or no port, for the user space")
    sockets = stack.enter_context(ExitStack())
    plain: list[WorkerSockets] = []
    if sealing is None or sealing.needs_plain or sealing.is_live:
        plain = _opened(
            partial(
                open_underlay_sockets,
                *(underlay.addresses, port, workers),
                source_ports=backend.source_ports,
            ),
            is_needed=sealing is None or sealing.needs_plain,
        )
    for worker in plain:
        sockets.callback(worker.close)
    sealed: list[WorkerSockets] = []
    if sealing is not None:
        sealed = _opened(
            partial(open_encryption_sockets, underlay.addresses, sealing.port, workers),
            is_needed=sealing.needs_sealed,
        )
    for worker in sealed:
        sockets.callback(worker.close)
    icmp = icmp6 = None
    if underlay.address is not None:
        icmp = sockets.enter_context(open_icmp_socket())
    if underlay.address_v6 is not None:
        icmp6 = sockets.enter_context(open_icmp6_socket())

    async def count_queues(name: str) -> int:
        link = await netlink.link(name)
        return 0 if link is None or link.tun is None else link.tun.queues

    tun = await open_tun(template, workers, count_queues)
    stack.callback(tun.close)
    return _Descriptors(
        tun=tun,
        workers=plain or [WorkerSockets() for _ in range(workers)],
        sealed=sealed,
        has_plain=bool(plain),
        icmp=icmp,
        icmp6=icmp6,
        sockets=sockets,
    )


def _opened(
    opening: Callable[[], Sequence[WorkerSockets]], *, is_needed: bool
) -> list[WorkerSockets]:
    """Returns sockets; none where another program has the port and no packet needs it now."""
    try:
        return list(opening())
    except PortInUseError as error:
        if is_needed:
            raise
        _log.warning(
            "a port that no packet needs now is taken; another mode of encryption takes effect "
            "when tunneld is started again",
            extra={"fields": {"error": str(error)}},
        )
        return []


def _drain(engine: Engine, on_engine_event: Callable[[EngineEvent], None]) -> None:
    for event in engine.events():
        on_engine_event(event)
