"""One node of one network, from its options to its last clean-up.

Path of a lease: `store` -> `daemon.membership` (lease) -> `daemon.tenure` (`daemon.desired`: peer,
backend, fib) -> `daemon.datapath` -> `engine` | `host`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, NoReturn

from tunneld import __version__
from tunneld.backend import parse_backend
from tunneld.backend.base import Backend
from tunneld.config import RunOptions
from tunneld.control.health import HealthServer
from tunneld.control.server import ControlServer
from tunneld.control.status import FirewallStatus, render_status
from tunneld.daemon.cache import Cache, write_down
from tunneld.daemon.datapath import DataPath
from tunneld.daemon.here import forget_vtep_macs
from tunneld.daemon.membership import Membership
from tunneld.daemon.presence import be_present
from tunneld.daemon.reload import Reloader
from tunneld.daemon.report import Report
from tunneld.daemon.tenure import Rooms, Tenure
from tunneld.daemon.together import together
from tunneld.daemon.underlay import UnderlayMovedError, any_underlay, settled_underlay
from tunneld.daemon.watchdog import Watchdog
from tunneld.errors import DeviceLostError
from tunneld.host.capabilities import require_capabilities
from tunneld.host.machine import machine
from tunneld.host.netlink import Netlink
from tunneld.host.notify import Notifier
from tunneld.host.state_dir import StateDir
from tunneld.host.underlay import Selection, Underlay
from tunneld.lease.keeper import Keeper
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
            await any_underlay(self._selection, self._netlink)
            store = open_store(options.store)
            stack.push_async_callback(store.close)
            keeper = Keeper(
                store,
                node_id=self._state_dir.node_id,
                machine=machine(),
                new_node_id=self._new_node_id,
                version=__version__,
                ttl_s=options.lease_ttl_s,
                renew_margin_s=options.renew_margin_s,
                rng=random.SystemRandom(),
            )
            self._membership = Membership(store, keeper, options.store.prefix)
            self._cache = Cache(
                self._state_dir,
                f"{store.status().kind} {options.store.prefix}",
                [str(options.store.path)] if options.store.path else options.store.endpoints,
                lambda: store.status().cluster,
                machine(),
            )
            self._report = Report(
                membership=self._membership,
                firewall=FirewallStatus(
                    mode=options.firewall, forward_rules=options.iptables_forward_rules
                ),
            )
            self._report.add(lambda: self._state_dir.problem)
            self._watchdog = Watchdog(self._notifier, self._report)
            await self._open_faces(stack)
            # Last in, first out: said before anything is taken down.
            stack.callback(self._notifier.stopping)
            try:
                await together(
                    self._watchdog.run(),
                    self._reloader.run(),
                    self._membership.follow(),
                    self._membership.remind(),
                    write_down(self._state_dir),
                    be_present(self._membership, keeper),
                    self._stay(),
                )
            except LeftError:
                _log.info("this node has left the network")

    def _new_node_id(self, is_copy: bool) -> str:
        if is_copy:
            forget_vtep_macs(self._state_dir)
        return self._state_dir.renew_node_id()

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

    async def _stay(self) -> None:
        config = await self._membership.first_config(self._cache.load())
        backend = parse_backend(config, self._options.datapath)
        _tell_what_has_no_effect(self._options, backend)
        self._report.network = self._membership.tracker.config_text
        self._report.backend = backend
        # Only now it is known in which families the underlay must have an address.
        underlay = await settled_underlay(
            self._selection,
            self._netlink,
            backend.families,
            tell=self._report.waits_for_underlay,
        )
        with self._membership.telling(self._compare_config):
            await self._live_on(config, backend, underlay)

    async def _live_on(
        self, config: NetworkConfig, backend: Backend, underlay: Underlay
    ) -> NoReturn:
        rooms = Rooms(
            options=self._options,
            selection=self._selection,
            netlink=self._netlink,
            state_dir=self._state_dir,
            membership=self._membership,
            cache=self._cache,
            report=self._report,
        )
        while True:
            tenure = Tenure(
                rooms, config=config, backend=backend, underlay=underlay, announce=self._announce
            )
            try:
                await tenure.run(self._wait_for_leave)
            except DeviceLostError as lost:
                _log.warning(
                    "the overlay device is lost; the data path is built anew",
                    extra={"fields": {"error": str(lost)}},
                )
            except UnderlayMovedError as moved:
                has_moved, underlay = moved.underlay != underlay, moved.underlay
                _log.warning(
                    "the underlay has moved; the data path is built anew"
                    if has_moved
                    else "this host's VTEP addresses were another's; the data path is built anew",
                    extra={
                        "fields": {
                            "interface": underlay.name,
                            "address": ", ".join(map(str, underlay.addresses)),
                        }
                    },
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

    def _announce(self, path: DataPath) -> None:
        """Tells the world that the data path forwards and subnet.env is written."""
        own = self._membership.own
        self._report.phase = "ready"
        self._watchdog.show()
        self._notifier.ready()
        self._was_announced = True
        _log.info(
            "forwarding",
            extra={
                "fields": {
                    "subnet": str(own.key) if own else "no subnet",
                    "device": ", ".join(path.devices) or "none",
                    "peers": self._report.peer_count,
                }
            },
        )

    async def _status(self) -> dict[str, Any]:
        return render_status(await self._report.status())

    async def _leave(self) -> dict[str, Any]:
        """Gives the lease back; the answer is sent before the node ends."""
        own = self._membership.own
        await self._membership.leave()
        # From here on nothing may keep the node from ending: its subnet is free for others.
        self._leaving.set()
        self._cache.forget()
        try:
            self._options.subnet_file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning(
                "subnet.env cannot be removed; it names a subnet that was given up",
                extra={"fields": {"path": str(self._options.subnet_file), "error": error.strerror}},
            )
        return {"subnet": None if own is None else str(own.key)}

    async def _wait_for_leave(self) -> None:
        await self._leaving.wait()
        raise LeftError


def _selection(options: RunOptions) -> Selection:
    return Selection(
        interfaces=options.iface,
        regexes=options.iface_regex,
        can_reach=options.iface_can_reach,
        public_ip=options.public_ip,
        public_ipv6=options.public_ipv6,
    )


def _tell_what_has_no_effect(options: RunOptions, backend: Backend) -> None:
    remarks = list(backend.remarks)
    if options.source_check is not None and backend.datapath != "userspace":
        remarks.append("--source-check has no effect: the kernel takes what comes from any host")
    if options.scheduling != "auto" and backend.datapath != "userspace":
        remarks.append("--scheduling has no effect: there are no data threads")
    for remark in remarks:
        _log.warning("an option has no effect", extra={"fields": {"detail": remark}})
