"""One node of one network, from its options to its last clean-up.

Path of a lease: `store` -> `daemon.membership` (lease) -> `daemon.term` -> `daemon.tenure`
(`daemon.desired`: peer, backend, fib) -> `daemon.datapath` -> `engine` | `host`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, NoReturn

from tunneld import __version__
from tunneld.backend.base import Backend
from tunneld.clock import since_boot_s
from tunneld.config import RunOptions
from tunneld.control.health import HealthServer
from tunneld.control.server import ControlServer
from tunneld.control.status import FirewallStatus, render_status
from tunneld.daemon.cache import Cache, Remembered, last_config, write_down
from tunneld.daemon.datapath import DataPath, Handover
from tunneld.daemon.here import forget_vtep_macs
from tunneld.daemon.membership import Membership
from tunneld.daemon.presence import be_present
from tunneld.daemon.protection import Protection, asks_for_encryption
from tunneld.daemon.reload import Reloader
from tunneld.daemon.report import Report
from tunneld.daemon.shadows import require_store_outside
from tunneld.daemon.skips import REMINDER_S
from tunneld.daemon.switches import Switches
from tunneld.daemon.tenure import NodeContext
from tunneld.daemon.term import RETRY_S, ConfigChangedError, Term, previous_subnet
from tunneld.daemon.together import together
from tunneld.daemon.underlay import tell_whether_any, underlay_lack
from tunneld.daemon.watchdog import Watchdog
from tunneld.errors import (
    HostError,
    NetworkConfigError,
    TrustError,
)
from tunneld.host.barrier import Barrier
from tunneld.host.capabilities import require_capabilities
from tunneld.host.machine import machine
from tunneld.host.netlink import Netlink
from tunneld.host.notify import Notifier
from tunneld.host.state_dir import StateDir
from tunneld.host.subnet_env import networks_of_file
from tunneld.host.underlay import Selection, check_patterns
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import IPNetwork
from tunneld.lease.network import NetworkConfig, parse
from tunneld.log import Condition
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
            also=self._reload_trust,
        )
        self._was_announced = False
        self._networks: set[IPNetwork] = set()
        """That this host is, was or asked to be in: its containers may be of any of them."""
        self._is_kept_back = False
        """Whether no packet of these may leave in plain, also once this daemon has ended."""
        self._switches = Switches()
        self._leaving = asyncio.Event()
        self._term: Term | None = None
        self._underlay_lack = underlay_lack()
        self._config_lack = Condition(
            _log, "waiting for a usable network config", "the network config is usable"
        )
        self._health_lack = Condition(
            _log, "no health pages; trying again", "the health pages are served"
        )

    def _reload_trust(self) -> None:
        with contextlib.suppress(TrustError):  # it is in the log, and the files are read again
            self._protection.reload()

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
            self._barrier = Barrier(self._netlink)
            stack.push_async_callback(self._end_barrier)
            await self._keep_back_from_the_start()
            self._protection = Protection(options, self._state_dir)
            stack.callback(self._protection.close)
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
                # Counts the time that the host is suspended, as the store does.
                clock=since_boot_s,
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
                encryption=self._protection.status,
                verdicts=lambda: self._protection.claims.verdicts,
                name_of=self._protection.name_of,
            )
            self._report.add(lambda: self._state_dir.problem)
            self._report.underlay = self._underlay_lack
            self._report.add(lambda: self._config_lack.problem)
            self._report.add(lambda: self._health_lack.problem)
            self._report.add(lambda: self._barrier.problem)
            self._report.add(lambda: self._protection.problem)
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
                    self._protection.keep(),
                    be_present(self._membership, keeper),
                    self._barrier.keep(),
                    self._serve_health(),
                    self._stay(),
                    self._wait_for_leave(),
                )
            except LeftError:
                _log.info("this node has left the network")

    def _new_node_id(self, is_copy: bool) -> str:
        if is_copy:
            forget_vtep_macs(self._state_dir)
            self._protection.renew_key()
            if self._term is not None:
                self._term.remake()
        return self._state_dir.renew_node_id()

    async def _open_faces(self, stack: AsyncExitStack) -> None:
        control = ControlServer(
            self._options.control_socket,
            {"status": self._status, "leave": self._leave},
            {"offload": self._switch_offload, "trust": self._protection.order},
        )
        await control.start()
        stack.push_async_callback(control.close)

    async def _serve_health(self) -> None:
        """Serves the health pages, once their port is free."""
        options = self._options
        if not options.healthz_port:
            return
        server = HealthServer(options.healthz_ip, options.healthz_port, self._report.health)
        while True:
            try:
                await server.start()
            except HostError as error:
                self._health_lack.set(_now(), str(error))
                await asyncio.sleep(RETRY_S)
            else:
                break
        self._health_lack.clear()
        try:
            await asyncio.Event().wait()
        finally:
            await server.close()

    async def _stay(self) -> NoReturn:
        context = NodeContext(
            options=self._options,
            netlink=self._netlink,
            state_dir=self._state_dir,
            membership=self._membership,
            report=self._report,
            handover=Handover(),
            switches=self._switches,
            protection=self._protection,
            kept=lambda: self._barrier.networks,
        )
        remembered = self._not_outdated(self._cache.load())
        if self._cache.last_own is not None:
            self._membership.recall(self._cache.last_own)
        while True:
            config, backend, is_remembered = await self._usable_config(remembered)
            _tell_what_has_no_effect(self._options, backend)
            self._report.backend = backend
            if self._protection.esp is None:
                self._membership.publish(None)
            self._term = Term(
                context,
                config=config,
                backend=backend,
                text=self._report.network,
                is_remembered=is_remembered,
                selection=self._selection,
                cache=self._cache,
                underlay_lack=self._underlay_lack,
                announce=self._announce,
                replaced=self._keep_back_from_the_next,
                followed=self._note_followed,
            )
            try:
                await self._term.run()
            except ConfigChangedError:
                _log.warning("the network config in the store must be followed now; starting over")
            remembered = None

    def _not_outdated(self, remembered: Remembered | None) -> Remembered | None:
        """Returns what is remembered, unless subnet.env, on another disk, names another lease."""
        previous = previous_subnet(self._options.subnet_file) if remembered else None
        if remembered is None or previous in (None, remembered.own.key):
            return remembered
        _log.warning(
            "the remembered lease is not the one of subnet.env; waiting for the store",
            extra={"fields": {"subnet": str(remembered.own.key), "detail": f"{previous} there"}},
        )
        return None

    async def _usable_config(
        self, remembered: Remembered | None
    ) -> tuple[NetworkConfig, Backend, bool]:
        """Waits for a network config that this host can serve; says whether it is from memory."""
        telling = asyncio.create_task(
            tell_whether_any(self._selection, self._netlink, self._underlay_lack)
        )
        try:
            if self._protection.forbids_plain:
                await self._keep_back(_config_of(remembered))
            while True:
                config = None
                try:
                    config = await self._membership.first_config(remembered)
                    backend = self._protection.adopt(config)
                except NetworkConfigError as error:
                    self._config_lack.set(_now(), str(error))
                    self._note_networks(config or _config_of(remembered))
                    if self._protection.forbids_plain:
                        await self._keep_back(config)
                    text = self._membership.tracker.config_text
                    if config is not None and text is not None and self._protection.is_asked:
                        # Else a start without the store would go by the plain config of before.
                        self._cache.follow(text)
                    await self._membership.another_config_within(text, REMINDER_S)
                else:
                    self._note_networks(config)
                    if self._protection.forbids_plain:
                        await self._keep_back(config)
                    else:
                        await self._let_through()
                    self._config_lack.clear()
                    self._report.network = self._membership.tracker.config_text
                    return config, backend, self._membership.goes_by_memory
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    async def _keep_back_from_the_start(self) -> None:
        """Keeps back what may not travel in plain before anything else can go wrong."""
        last = last_config(self._state_dir)
        if asks_for_encryption(self._options, last):
            self._networks.update(networks_of_file(self._options.subnet_file))
            await self._keep_back(last)

    async def _keep_back_from_the_next(self) -> None:
        """Keeps back what may not travel in plain under the config that is to be followed next."""
        text = self._membership.tracker.config_text
        if self._protection.is_raised_by(text):
            await self._keep_back(parse(text or ""))

    async def _note_followed(self, text: str) -> None:
        """Goes by a config that differs by its mode from the one before."""
        self._report.network = text
        if self._protection.esp is None:
            await self._let_through()

    async def _keep_back(self, config: NetworkConfig | None) -> None:
        """Has no packet of a network leave but by the overlay, where it is encrypted.

        What a daemon that was killed has left would go on in plain, and what has no route leaves
        by the default route.
        """
        self._note_networks(config)
        self._is_kept_back = True
        store = self._options.store
        urls = store.endpoints if store.kind == "etcd" else ()
        held = []
        for network in sorted(self._networks, key=str):
            try:
                await require_store_outside(self._netlink, [network], urls)
            except HostError as error:
                self._tell_not_kept_back(error)
            else:
                held.append(network)
        try:
            # Without a network too: what a killed daemon left goes in any case.
            await self._barrier.put(held)
        except HostError as error:
            self._tell_not_kept_back(error)

    def _note_networks(self, config: NetworkConfig | None) -> None:
        self._networks.update(pool.network for pool in (config.pools if config else ()))

    def _tell_not_kept_back(self, error: HostError) -> None:
        _log.error(
            "packets of the network cannot be kept back", extra={"fields": {"error": str(error)}}
        )

    async def _let_through(self) -> None:
        self._is_kept_back = False
        await self._take_away(self._barrier.lift(self._networks))

    async def _end_barrier(self) -> None:
        """Has packets kept back until the next start, unless this host has left."""
        if self._leaving.is_set():
            await self._take_away(self._barrier.end())
        elif self._is_kept_back:
            self._barrier.close()
            _log.info(
                "packets for the network are kept back until tunneld runs again; `tunneld leave` "
                "ends that"
            )

    async def _take_away(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except HostError as error:
            _log.error(
                "something of ours could not be taken away", extra={"fields": {"error": str(error)}}
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

    def _switch_offload(self, request: Mapping[str, Any]) -> dict[str, str]:
        path = self._report.path
        return self._switches.switch(path.engine if path else None, request)

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

    async def _wait_for_leave(self) -> NoReturn:
        await self._leaving.wait()
        raise LeftError


def _now() -> float:
    return asyncio.get_running_loop().time()


def _config_of(remembered: Remembered | None) -> NetworkConfig | None:
    try:
        return parse(remembered.table.config or "") if remembered else None
    except NetworkConfigError:
        return None


def _selection(options: RunOptions) -> Selection:
    selection = Selection(
        interfaces=options.iface,
        regexes=options.iface_regex,
        can_reach=options.iface_can_reach,
        public_ip=options.public_ip,
        public_ipv6=options.public_ipv6,
    )
    check_patterns(selection)
    return selection


def _tell_what_has_no_effect(options: RunOptions, backend: Backend) -> None:
    remarks = list(backend.remarks)
    if options.source_check is not None and backend.datapath != "userspace":
        remarks.append("--source-check has no effect: the kernel takes what comes from any host")
    if options.scheduling != "auto" and backend.datapath != "userspace":
        remarks.append("--scheduling has no effect: there are no data threads")
    for remark in remarks:
        _log.warning("an option has no effect", extra={"fields": {"detail": remark}})
