"""One node of one network, from its options to its last clean-up.

Path of a lease: `store` -> `daemon.membership` (lease) -> `daemon.desired` (peer, backend, fib)
-> `daemon.datapath` -> `engine` | `host`. This file is the table of contents of that path.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, NoReturn

from tunneld import __version__
from tunneld.backend import parse_backend
from tunneld.backend.base import Backend
from tunneld.config import RunOptions
from tunneld.control.health import HealthServer
from tunneld.control.server import ControlServer
from tunneld.control.status import render_status
from tunneld.daemon.cache import Cache
from tunneld.daemon.datapath import DataPath
from tunneld.daemon.desired import Desired
from tunneld.daemon.membership import Membership, remember
from tunneld.daemon.path_mtu import PathMtus
from tunneld.daemon.reload import Reloader
from tunneld.daemon.report import Report
from tunneld.daemon.together import together
from tunneld.daemon.underlay import UnderlayMovedError, UnderlayWatch
from tunneld.daemon.watchdog import Watchdog
from tunneld.engine import EngineEvent
from tunneld.errors import EngineError, HostError, NetworkConfigError, NotBuiltError
from tunneld.fib.state import UnderlayPort
from tunneld.host import subnet_env, takeover
from tunneld.host.capabilities import require_capabilities
from tunneld.host.netlink import Netlink
from tunneld.host.notify import Notifier
from tunneld.host.state_dir import StateDir
from tunneld.host.underlay import Selection, Underlay, find_underlay
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.store import open_store

_log = logging.getLogger("tunneld.daemon")


class LeftError(Exception):
    """The node has given its lease back and is to end: the way out of all loops at once."""


class Node:
    """The daemon's life. `run` returns once the node has left; cancel it to stop the node."""

    def __init__(self, options: RunOptions, read_options: Callable[[], RunOptions]) -> None:
        """`read_options` reads the options anew, when the node is asked to."""
        self._options = options
        self._selection = _selection(options)
        self._notifier = Notifier.from_environment()
        self._reloader = Reloader(
            options,
            read_options,
            self._notifier,
            is_ready=lambda: self._was_announced,
        )
        self._was_announced = False
        self._leaving = asyncio.Event()
        self._foreign_config: str | None = None

    def reload(self) -> None:
        """Reads the options anew; those that may change live take effect."""
        self._reloader.request()

    async def run(self) -> None:
        """Joins the network and stays in it.

        Raises:
            TunneldError: this host, these options or this network config cannot work.
        """
        options = self._options
        async with AsyncExitStack() as stack:
            require_capabilities()
            self._state_dir = stack.enter_context(StateDir(options.state_dir))
            self._netlink = await stack.enter_async_context(Netlink.opened())
            underlay = await find_underlay(self._selection, self._netlink)
            store = open_store(options.store)
            stack.push_async_callback(store.close)
            keeper = Keeper(
                store,
                node_id=self._state_dir.node_id,
                version=__version__,
                ttl_s=options.lease_ttl_s,
                renew_margin_s=options.renew_margin_s,
                rng=random.SystemRandom(),
            )
            self._membership = Membership(store, keeper, options.store.prefix)
            self._cache = Cache(self._state_dir, f"{store.status().kind} {options.store.prefix}")
            self._report = Report(node_id=self._state_dir.node_id, membership=self._membership)
            self._watchdog = Watchdog(self._notifier, self._report)
            await self._open_faces(stack)
            # Last in, first out: said before anything is taken down.
            stack.callback(self._notifier.stopping)
            try:
                await together(
                    self._watchdog.run(),
                    self._reloader.run(),
                    self._membership.follow(),
                    self._stay(underlay),
                )
            except LeftError:
                _log.info("this node has left the network")

    async def _open_faces(self, stack: AsyncExitStack) -> None:
        control = ControlServer(
            self._options.control_socket, {"status": self._status, "leave": self._leave}
        )
        await control.start()
        stack.push_async_callback(control.close)
        if self._options.healthz_port:
            health = HealthServer(
                self._options.healthz_ip, self._options.healthz_port, self._report.health
            )
            await health.start()
            stack.push_async_callback(health.close)

    async def _stay(self, underlay: Underlay) -> None:
        config = await self._membership.first_config(self._cache.load())
        if config.enable_ipv6:
            raise NetworkConfigError(
                "the network config sets EnableIPv6, which the udp backend cannot carry; "
                "expected an IPv4 network: remove EnableIPv6"
            )
        backend = parse_backend(config)
        self._report.network = self._membership.tracker.config_text
        self._report.backend = backend
        with self._membership.telling(self._compare_config):
            await self._live_on(config, backend, underlay)

    async def _live_on(
        self, config: NetworkConfig, backend: Backend, underlay: Underlay
    ) -> NoReturn:
        while True:
            try:
                await self._live(config, backend, underlay)
            except UnderlayMovedError as moved:
                underlay = moved.underlay
                _log.warning(
                    "the underlay has moved; the data path is built anew",
                    extra={
                        "fields": {
                            "interface": underlay.name,
                            "address": str(underlay.address),
                            "public_ip": str(underlay.public_ip),
                        }
                    },
                )

    async def _live(self, config: NetworkConfig, backend: Backend, underlay: Underlay) -> None:
        """Holds a lease and forwards, on one underlay, for as long as that stands."""
        options, membership, report = self._options, self._membership, self._report
        path_mtus = PathMtus(source=underlay.address, overhead_bytes=backend.overhead_bytes)
        desired = Desired(
            config=config,
            backend=backend,
            membership=membership,
            path_mtus=path_mtus,
            underlay_mtu_bytes=underlay.mtu_bytes,
            source_check=options.source_check or backend.source_check,
            ip_masq=options.ip_masq,
            random_fully=not options.ip_masq_fully_random_disable,
            forward=options.iptables_forward_rules,
            notrack=_notrack(options, backend, underlay),
            accept_mark=options.bridge_accept_fwmark,
        )
        async with AsyncExitStack() as stack:
            path = await DataPath.open(
                stack,
                backend=backend,
                underlay=underlay,
                workers=options.workers,
                network=config.network,
                subnet_file=options.subnet_file,
                netlink=self._netlink,
                state_dir=self._state_dir,
                desired=desired.state,
                firewall=options.firewall,
            )
            wake = path.reconciler.wake
            attributes = backend.attributes(underlay.public_ip, None)
            if not membership.holds(attributes):
                previous = _previous_subnet(options.subnet_file)
                await membership.join(config, attributes, previous)

            watch = UnderlayWatch(
                selection=self._selection,
                netlink=self._netlink,
                underlay=underlay,
                mtu_changed=desired.set_underlay_mtu,
            )
            failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            report.desired, report.path, report.underlay = desired, path, watch
            stack.callback(report.forget)
            stack.enter_context(membership.telling(wake))
            desired.on_change = path_mtus.on_change = wake
            path.start(
                on_engine_event=lambda event: _engine_event(event, desired, path_mtus, failure),
                on_host_event=lambda event: watch.hint() if event == "underlay" else None,
            )
            stack.callback(path.quiesce)
            wake()
            await together(
                path.reconciler.run(),
                path_mtus.run(),
                watch.run(),
                membership.hold(config, attributes),
                self._announce(path),
                remember(self._cache, membership),
                _wait_for(failure),
                self._wait_for_leave(),
            )

    def _compare_config(self) -> None:
        text = self._membership.tracker.config_text
        if text in (self._report.network, self._foreign_config):
            return
        self._foreign_config = text
        _log.warning(
            "the network config in the store is not the one in force any more; "
            "a changed one takes effect when tunneld is started again"
        )

    async def _announce(self, path: DataPath) -> None:
        """Tells the world once the data path forwards and subnet.env is written."""
        await path.reconciler.settled()
        await self._take_over(path)
        own = self._membership.own
        subnet = str(own.subnet) if own else "no subnet"
        self._report.phase = "ready"
        self._watchdog.show()
        self._notifier.ready()
        self._was_announced = True
        _log.info(
            "forwarding",
            extra={
                "fields": {
                    "subnet": subnet,
                    "device": path.device,
                    "peers": len(self._report.peers),
                }
            },
        )

    async def _take_over(self, path: DataPath) -> None:
        """Clears away what a flanneld has left; ours is in place by now, so that nothing gapes."""
        try:
            if self._options.firewall != "off":
                await takeover.remove_flannel_rules()
            await takeover.warn_of_flannel_routes(self._netlink, path.network, path.device)
        except HostError as error:
            _log.error(
                "what flanneld left behind is still there", extra={"fields": {"error": str(error)}}
            )

    async def _status(self) -> dict[str, Any]:
        return render_status(self._report.status())

    async def _leave(self) -> dict[str, Any]:
        """Gives the lease back; the answer is sent before the node ends."""
        own = self._membership.own
        await self._membership.leave()
        self._cache.forget()
        self._options.subnet_file.unlink(missing_ok=True)
        self._leaving.set()
        return {"subnet": None if own is None else str(own.subnet)}

    async def _wait_for_leave(self) -> None:
        await self._leaving.wait()
        raise LeftError


def _selection(options: RunOptions) -> Selection:
    if isinstance(options.iface_can_reach, IPv6Address):
        raise NotBuiltError(
            f"iface-can-reach is {options.iface_can_reach}: an IPv6 underlay is not built yet; "
            "give an IPv4 address"
        )
    return Selection(
        interfaces=options.iface,
        regexes=options.iface_regex,
        can_reach=options.iface_can_reach,
        public_ip=options.public_ip,
    )


def _engine_event(
    event: EngineEvent, desired: Desired, path_mtus: PathMtus, failure: asyncio.Future[None]
) -> None:
    match event.kind:
        case "path_mtu":
            peer = desired.by_name(event.adjacency)
            if peer is not None:
                path_mtus.refused(peer)
        case "worker_ended" if not failure.done():
            failure.set_exception(
                EngineError(f"a thread of the data path has ended: {event.detail}; see the log")
            )
        case kind:
            _log.warning(
                "the data path reports", extra={"fields": {"kind": kind, "detail": event.detail}}
            )


def _notrack(options: RunOptions, backend: Backend, underlay: Underlay) -> UnderlayPort | None:
    if not options.underlay_notrack:
        return None
    return UnderlayPort(address=underlay.address, port=backend.port)


async def _wait_for(failure: asyncio.Future[None]) -> None:
    await failure


def _previous_subnet(path: Path) -> SubnetKey | None:
    previous = subnet_env.read(path)
    return subnet_env.key(previous) if previous else None
