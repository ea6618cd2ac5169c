"""One tenure of a node: packets forwarded, on one underlay.

Path of a lease: `daemon.membership` (lease) -> **`daemon.tenure`** (`daemon.desired`: peer,
backend, fib) -> `daemon.datapath` -> `engine` | `host`. It ends when the underlay moves, or when
something fails, and the next one begins with what is found then. It waits for no lease: packets
pass once there is one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import NoReturn

from tunneld.backend.base import Backend
from tunneld.config import RunOptions
from tunneld.daemon.datapath import DataPath, Handover, Sealing
from tunneld.daemon.desired import Desired
from tunneld.daemon.here import this_host
from tunneld.daemon.keying import Keying
from tunneld.daemon.membership import Membership
from tunneld.daemon.on_link import OnLinkWatch
from tunneld.daemon.path_mtu import PathMtus
from tunneld.daemon.protection import Protection
from tunneld.daemon.report import Report
from tunneld.daemon.rounds import Rounds
from tunneld.daemon.scheduling import Scheduling
from tunneld.daemon.shadows import Shadows, require_store_outside
from tunneld.daemon.switches import Switches
from tunneld.daemon.together import together
from tunneld.engine import Encryption, Engine, EngineEvent
from tunneld.errors import EngineError, HostError
from tunneld.fib.compose import Rules
from tunneld.fib.state import UnderlayPort
from tunneld.host import takeover
from tunneld.host.actuator import HostEvent
from tunneld.host.netlink import Netlink
from tunneld.host.remains import remove_rules
from tunneld.host.state_dir import StateDir
from tunneld.host.underlay import Underlay
from tunneld.lease.model import NO_IPV4_SUBNET, IPNetwork, RecordEncryption, SubnetKey
from tunneld.lease.network import NetworkConfig

_log = logging.getLogger("tunneld.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """What outlives a tenure."""

    options: RunOptions
    netlink: Netlink
    state_dir: StateDir
    membership: Membership
    report: Report
    handover: Handover
    switches: Switches
    protection: Protection
    kept: Callable[[], frozenset[IPNetwork]] = frozenset
    """Returns the networks that packets are kept back for where no overlay leads there."""


class Tenure:
    """Opens the data path on one underlay, and keeps it right."""

    def __init__(
        self,
        context: NodeContext,
        *,
        config: NetworkConfig,
        backend: Backend,
        underlay: Underlay,
        announce: Callable[[DataPath], None],
        listens: Callable[[], None] = lambda: None,
    ) -> None:
        """`announce` is called once the data path forwards and subnet.env is written.

        `listens` is called once the ports are open, and what the record says of keys is published.

        Raises:
            HostError: the state directory cannot be written.
        """
        self._context = context
        self._config = config
        self._backend = backend
        self._underlay = underlay
        self._announce = announce
        self._listens = listens
        protection = context.protection
        self._is_sealing = protection.esp is not None or protection.is_live
        self._instance = protection.instances.new() if self._is_sealing else b""
        """What tells this data path's keys from those of another, before or after it."""
        self._keying: Keying | None = None
        self._listening: Sealing | None = None
        """How packets are encrypted, once the ports are open."""
        options = context.options
        self._here = this_host(underlay, context.state_dir)
        self._path_mtus = PathMtus(
            overhead_bytes=backend.overhead_bytes, route_mtu=context.netlink.configured_mtu
        )
        self._desired = Desired(
            config=config,
            backend=backend,
            table=context.membership,
            path_mtus=self._path_mtus,
            here=self._here,
            source_check=options.source_check or backend.source_check,
            verdicts=context.protection.verdicts,
            esp=context.protection.esp,
            kept=context.kept,
            rules=Rules(
                ip_masq=options.ip_masq,
                random_fully=not options.ip_masq_fully_random_disable,
                forward=options.iptables_forward_rules,
                notrack=_notrack(options, self._ports, underlay),
                accept_mark=options.bridge_accept_fwmark,
                ports=self._ports,
                own=frozenset(underlay.addresses),
                interface=underlay.index,
            ),
        )
        self._on_link = OnLinkWatch(
            netlink=context.netlink, underlay=underlay, desired=self._desired
        )
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def _ports(self) -> tuple[int, ...]:
        """UDP ports that datagrams of the overlay go to."""
        protection, port = self._context.protection, self._backend.port
        sealed = (protection.encryption.port,) if self._is_sealing else ()
        return (*(() if port is None else (port,)), *sealed)

    def _sealing(self) -> Sealing | None:
        """Returns how packets are encrypted; None: never by this data path."""
        protection = self._context.protection
        said = protection.encryption
        if not self._is_sealing or protection.key is None:
            return None
        return Sealing(
            encryption=Encryption(
                key=protection.key,
                psks=protection.psks,
                network=protection.network_name,
                cipher=said.cipher,
                provider=protection.provider,
                instance=self._instance,
                keepalive_s=float(said.keepalive_s) if said.keepalive_s else None,
            ),
            port=said.port,
            needs_plain=protection.esp is None or not protection.esp.is_alone,
            needs_sealed=protection.esp is not None,
            is_live=protection.is_live,
        )

    def mode_changed(self) -> None:
        """Takes over how packets are encrypted by the mode in force now, with what is open."""
        self._desired.set_esp(self._context.protection.esp)
        if self._listening is not None:
            self._publish(self._listening)

    def set_underlay_mtu(self, mtu_bytes: int) -> None:
        """Takes over that the underlay has another MTU."""
        self._desired.set_underlay_mtu(mtu_bytes)

    async def run(self) -> NoReturn:
        """Works until cancelled.

        Raises:
            DeviceLostError: the data path has to be opened anew, with a device of its own.
            HostError, EngineError: the data path cannot be opened, or has failed.
        """
        context, desired = self._context, self._desired
        options, membership, report = context.options, context.membership, context.report
        if self._backend.datapath == "userspace":  # the whole network gets a route
            urls = options.store.endpoints if options.store.kind == "etcd" else ()
            await require_store_outside(context.netlink, whole(self._config).subnets, urls)
        sealing = self._sealing()
        async with AsyncExitStack() as stack:
            path = await DataPath.open(
                stack,
                backend=self._backend,
                here=self._here,
                underlay=self._underlay,
                workers=options.workers,
                threads=options.threads,
                network=whole(self._config),
                subnet_file=options.subnet_file,
                netlink=context.netlink,
                state_dir=context.state_dir,
                desired=desired.state,
                handover=context.handover,
                firewall=options.firewall,
                sealing=sealing,
            )
            if sealing is not None and not path.has_both:
                context.protection.is_live = False
            if path.engine is not None:
                context.switches.renew(path.engine)
                if not path.engine.encrypts:
                    sealing = None
            desired.device = path.device
            context.protection.on_change = desired.trust_changed
            report.desired, report.path = desired, path
            stack.callback(report.forget)
            wake = path.reconciler.wake
            stack.enter_context(membership.telling(desired.table_changed))
            stack.enter_context(membership.telling(wake))
            stack.enter_context(membership.telling(self._on_link.peers_changed))
            desired.on_change = wake
            shadows = report.shadows = Shadows(
                context.netlink,
                networks=whole(self._config).subnets,
                own=lambda: membership.own.key.subnets if membership.own else (),
                peers=desired.endpoints,
                routes=path.actuator.routes,
                devices=path.devices,
            )
            stack.enter_context(membership.telling(shadows.look_soon))
            stack.callback(report.add(shadows.problems))
            self._path_mtus.prober = path.engine
            if path.engine is not None and sealing is not None:
                self._begin_keying(stack, path.engine)
            path.start(on_engine_event=self._engine_event, on_host_event=self._host_event)
            self._publish(sealing)
            path.actuator.on_change(lambda _event: shadows.look_soon())
            stack.callback(path.quiesce)
            await self._on_link.ask()
            wake()
            await together(
                path.reconciler.run(),
                shadows.run(),
                Rounds(path.actuator, engine=path.engine, wake=wake).run(),
                self._path_mtus.run(),
                self._on_link.run(),
                self._settle(path),
                self._schedule(path),
                self._wait_for_failure(path),
                *([] if self._keying is None else [self._keying.run()]),
            )
        raise AssertionError("the loops of a data path have no end")

    def _begin_keying(self, stack: AsyncExitStack, engine: Engine) -> None:
        context = self._context
        keying = self._keying = Keying(
            engine,
            context.protection,
            context.state_dir,
            own=self._own_subnets,
            subnets_of=self._desired.subnets_of,
        )
        stack.callback(keying.close)
        keying.follow_own()
        stack.enter_context(context.membership.telling(keying.follow_own))
        context.protection.on_psks = keying.take_psks

        def forget() -> None:
            context.protection.on_psks = lambda: None

        stack.callback(forget)

    def _own_subnets(self) -> tuple[IPNetwork, ...]:
        own = self._context.membership.own
        return () if own is None else own.key.subnets

    def _publish(self, sealing: Sealing | None) -> None:
        """Has the record say where this host can be tried with encryption: its port listens."""
        said, self._listening = None, sealing
        if sealing is not None and self._context.protection.esp is not None:
            said = RecordEncryption(
                key=str(sealing.encryption.key.public),
                port=sealing.port,
                instance=self._instance.hex(),
            )
        self._context.membership.publish(said)
        self._listens()

    async def _settle(self, path: DataPath) -> None:
        await path.reconciler.settled()
        if self._keying is not None:
            await self._keying.meet_former()
        if self._context.report.shadows is not None:
            self._context.report.shadows.look_soon()
        await self._take_over(path)
        self._announce(path)

    async def _wait_for_failure(self, path: DataPath) -> None:
        try:
            await self._failure
        except EngineError:
            await path.actuator.require_device()  # without it no thread can go on
            raise

    async def _schedule(self, path: DataPath) -> None:
        if path.engine is not None:
            await Scheduling(path.engine.threads, self._context.options.scheduling).run()

    async def _take_over(self, path: DataPath) -> None:
        """Clears away what a flanneld has left; ours is in place by now, so that nothing gapes."""
        try:
            await remove_rules(path.actuator.owner)
            if self._context.options.firewall != "off":
                await takeover.remove_flannel_rules()
            await takeover.warn_of_flannel_routes(
                self._context.netlink, whole(self._config).subnets, path.devices
            )
        except HostError as error:
            _log.error(
                "what flanneld, or a daemon that is gone, left behind is still there",
                extra={"fields": {"error": str(error)}},
            )

    def _host_event(self, event: HostEvent) -> None:
        if event == "on_link":
            self._on_link.routes_changed()

    def _engine_event(self, event: EngineEvent) -> None:
        if self._keying is not None and self._keying.take(event):
            return
        match event.kind:
            case "path_mtu":
                self._path_mtus.refused(event.adjacency, event.path_mtu_bytes)
            case "probe_answered" if event.token is not None and event.path is not None:
                self._path_mtus.answered(event.token, event.path)
            case "worker_ended" if not self._failure.done():
                self._failure.set_exception(
                    EngineError(f"a thread of the data path has ended: {event.detail}; see the log")
                )
            case kind:
                facts = {"kind": kind, "detail": event.detail}
                if event.adjacency is not None:
                    facts["peer"] = event.adjacency
                is_good = kind == "offload_back"
                _log.log(
                    logging.INFO if is_good else logging.WARNING,
                    "the data path reports",
                    extra={
                        "fields": {key: fact for key, fact in facts.items() if fact is not None}
                    },
                )


def whole(config: NetworkConfig) -> SubnetKey:
    """Returns the overlay in each family the network has."""
    return SubnetKey(
        config.ipv4.network if config.ipv4 else NO_IPV4_SUBNET,
        config.ipv6.network if config.ipv6 else None,
    )


def _notrack(
    options: RunOptions, ports: tuple[int, ...], underlay: Underlay
) -> frozenset[UnderlayPort]:
    if not options.underlay_notrack:
        return frozenset()
    return frozenset(
        UnderlayPort(address=address, port=port) for address in underlay.addresses for port in ports
    )
