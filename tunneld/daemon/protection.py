"""What this host asks of encryption: whom it trusts, its floor, and the mode in force.

Path of a lease: `daemon.node` -> **`daemon.protection`** (`trust`, `backend.encryption`) ->
`daemon.term`. A network config that would have packets travel below the floor is none that this
host can serve: it is waited for another, and nothing is forwarded meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, NoReturn

from tunneld.backend import parse_backend
from tunneld.backend.base import Backend
from tunneld.backend.encryption import Encryption, encryption_of, require_served
from tunneld.backend.esp import Esp, esp_in
from tunneld.backend.leases import underlay_address
from tunneld.clock import Now
from tunneld.config import RunOptions
from tunneld.control.status import EncryptionStatus
from tunneld.daemon.claims import Claims
from tunneld.daemon.instances import Instances
from tunneld.errors import ControlError, NetworkConfigError, TrustError
from tunneld.fib.plan import Members
from tunneld.host.memory import keep_out_of_core_dumps
from tunneld.host.state_dir import StateDir
from tunneld.lease.model import IPNetwork, NodeRecord, Unreadable
from tunneld.lease.network import NetworkConfig, parse
from tunneld.peer import Peer
from tunneld.store.format import clean_prefix
from tunneld.trust import files
from tunneld.trust.decision import Trust
from tunneld.trust.memory import NAME as MEMORY
from tunneld.trust.memory import Memory
from tunneld.trust.policy import SWITCH_S, Mode, Policy, Remote, Verdict, default_floor, effective
from tunneld.trust.secrets import KEY_FILE, NodeKey, Psks, credential

KEEP_S = 600.0
"""How often who is there is written down; of a day that is little."""

_log = logging.getLogger("tunneld.daemon")


def asks_for_encryption(options: RunOptions, config: NetworkConfig | None) -> bool:
    """Returns whether packets may not travel in plain, by what is known before a file is read.

    `config` is the last one that this host went by, or was asked to.
    """
    is_local = bool(options.identities or options.psk_file or credential(os.environ))
    floor = options.encryption_floor or default_floor(is_local=is_local)
    try:
        asked = encryption_of(config).mode if config is not None else "off"
    except NetworkConfigError:
        return True
    return effective(asked, floor) != "off"


class Protection:
    """The local side of encryption, from the options and files of this host."""

    def __init__(
        self, options: RunOptions, state_dir: StateDir, now: Callable[[], Now] = Now.read
    ) -> None:
        """Reads the files. `now` reads the clocks.

        Raises:
            TrustError: one of them is not usable.
            HostError: the kernel does not keep secrets out of core dumps.
        """
        self._options = options
        self._state_dir = state_dir
        self._psk_file = options.psk_file or credential(os.environ)
        self._mode: Mode | None = None
        self._asked: Mode = "off"
        """By the network config seen last, without the floor."""
        self._is_unknown = False
        """Whether the network asks for something that cannot be read."""
        self._policy: Policy | None = None
        self._now = now
        self._members = Members()
        """The others, as they are now."""
        self.encryption = Encryption()
        """What the network config in force says."""
        self.esp: Esp | None = None
        """How peers with keys are reached; None: encryption is off."""
        self.is_live = False
        """Whether the data path has the sockets for plain packets and for ESP, whatever the mode:
        another mode is followed in place."""
        self._raised_s: float | None = None
        """When plain was left last, on the boot clock; None: it was not while this host ran."""
        self.key: NodeKey | None = None
        """This node's own; None: it is not needed yet."""
        self.claims = Claims()
        self.instances = Instances(state_dir)
        self.on_change: Callable[[], None] = lambda: None
        """Called when others may be trusted, or reached in other ways, than before."""
        self.on_psks: Callable[[], None] = lambda: None
        """Called when the PSKs have been read again."""
        self.problem: str | None = None
        """Why the files are not those in force, in one line; None: they are."""
        self.trust, self.psks, self._counts = self._read()
        self.memory = self._remembered()
        if self.floor != "off":
            _log.info(
                "encryption is wanted here",
                extra={"fields": {"floor": self.floor, "detail": self.trust.explanation}},
            )

    @property
    def floor(self) -> Mode:
        """The least that this host takes, whatever the store says."""
        return self._options.encryption_floor or default_floor(is_local=self.trust.is_local)

    def adopt(self, config: NetworkConfig) -> Backend:
        """Goes by a network config from now on; returns its backend. Raises as `backend_of`.

        The node's key is made at the first config that needs it.
        """
        self._is_unknown = True
        mode = self._mode = self._mode_of(config)
        self.encryption = encryption_of(config)
        self._asked = self.encryption.mode
        self._is_unknown = False
        if self._policy is None or self._policy.mode != mode:
            self.claims = Claims()
            plain_peers = self._options.plain_peers or None
            self._policy = Policy(
                mode=mode, trust=self.trust, memory=self.memory, plain_peers=plain_peers
            )
        backend = self.backend_of(config)
        self.esp, self._raised_s = None, None
        if mode != "off":
            self.esp = esp_in(config, is_alone=mode == "required")
            self.key = self.key or self._own_key()
        self.is_live = self._may_be_live(config, backend)
        if self.key is not None:
            self._policy.own = self.key.public
        return backend

    def _may_be_live(self, config: NetworkConfig, backend: Backend) -> bool:
        """Returns whether the mode may change in place; makes the node's key where it may.

        Only where the operator has said both whom this host trusts and that less than `required`
        will do: elsewhere a host opens no port that its mode does not need.
        """
        if self.floor == "required" or not self.trust.is_local or backend.datapath != "userspace":
            return False
        try:
            require_served(backend, encryption_of(config), "preferred")
            esp_in(config, is_alone=False)
            self.key = self.key or self._own_key()
        except NetworkConfigError:
            return False
        return True

    def can_follow(self, config: NetworkConfig, text: str | None) -> bool:
        """Returns whether a config differs from the one in force by its mode, and can be served."""
        if not self.is_live:
            return False
        try:
            new = parse(text or "")
            self.backend_of(new)
            return _but_for_mode(new) == _but_for_mode(config)
        except NetworkConfigError:
            return False

    def follow(self, config: NetworkConfig) -> float | None:
        """Goes by a config that `can_follow` allows, step by step.

        Returns when to call again, on the boot clock; None: the last step is done. From plain the
        first step is `preferred` in any case: every pair has keys by the time plain is refused.
        """
        now_s = self._now().boot_s
        self.encryption = encryption_of(config)
        self._asked = self.encryption.mode
        wanted, policy = self._mode_of(config), self._policy
        if policy is None:
            raise ValueError("no network config has been adopted")
        if policy.mode == "off" and wanted != "off":
            self._raised_s = now_s
        switched_s = None if self._raised_s is None else self._raised_s + SWITCH_S
        step: Mode = wanted
        if wanted == "required" and switched_s is not None and now_s < switched_s:
            step = "preferred"
        if step != policy.mode:
            _log.info(
                "another mode of encryption is in force",
                extra={"fields": {"detail": f"{policy.mode} -> {step}"}},
            )
        policy.follow(step, map(_remote, self._members.peers), now_s)
        self._mode = step
        until_s = policy.lowered_until_s(now_s)
        self.esp = None
        if step != "off" or until_s is not None:
            self.esp = esp_in(config, is_alone=step == "required")
        else:
            self.claims.clear()
        return switched_s if step != wanted else until_s

    def renew_key(self) -> None:
        """Makes a key of its own for a host whose state directory is another's copy.

        Raises:
            TrustError: its file cannot be written; the former one stays.
        """
        if self.key is not None:
            self.key = NodeKey.replace(self._state_dir.path / KEY_FILE)
            if self._policy is not None:
                self._policy.own = self.key.public
            _log.warning(
                "this host has a key of its own now, which no other host's identities know",
                extra={"fields": {"detail": str(self.key.public)}},
            )

    @property
    def silent(self) -> Unreadable | None:
        """What the record says of keys while their port is not open; None: there are none."""
        if self.key is None:
            return None
        return Unreadable(value={"Key": str(self.key.public)}, detail="the port is not open")

    def is_of_a_copy(self, record: NodeRecord | None) -> bool:
        """Returns whether a record of this node's id was written with a copy of its keys."""
        if self.key is None or self._options.take_over:
            return False
        return self.instances.is_of_a_copy(record, str(self.key.public))

    def _own_key(self) -> NodeKey:
        path = self._state_dir.path / KEY_FILE
        try:
            found = NodeKey.load(path)
            if found is None:
                found = NodeKey.create(path)
                _log.info(
                    "made this node's key",
                    extra={"fields": {"path": str(path), "detail": str(found.public)}},
                )
        except TrustError as error:
            raise NetworkConfigError(f"encryption is {self._mode}, but {error}") from None
        return found

    def backend_of(self, config: NetworkConfig) -> Backend:
        """Returns the backend of a network config that this host can serve.

        Raises:
            NetworkConfigError: it is not usable, or its packets would travel below the mode in
                force.
        """
        encryption, mode = encryption_of(config), self._mode_of(config)
        backend = parse_backend(config, self._options.datapath)
        by = "" if encryption.mode == mode else f" ({self._floor_source})"
        try:
            require_served(backend, encryption, mode)
        except NetworkConfigError as error:
            raise NetworkConfigError(f"{error}{by}") from None
        if mode != "off":
            esp_in(config, is_alone=mode == "required")
        return backend

    def _mode_of(self, config: NetworkConfig) -> Mode:
        return effective(encryption_of(config).mode, self.floor)

    def verdicts(self, members: Members) -> dict[IPNetwork, Verdict]:
        """Returns how each subnet of the others may be reached; none while encryption is off."""
        policy, now_s = self._policy, self._now().boot_s
        if policy is None or self.esp is None:
            self._members = members
            self.claims.drop_verdicts()
            return {}
        self._note_members(now_s)
        self._members = members
        found = self.claims.judge(policy, map(_remote, members.peers), now_s)
        self._note_news(policy)
        return found

    def confirmed(self, key: str, subnets: Iterable[str]) -> None:
        """A handshake with a key is confirmed, and claims these subnets."""
        if self.claims.confirmed(key, subnets, self._policy, self._now().boot_s):
            self.on_change()

    def lost(self, key: str) -> None:
        """There are no keys with a peer any more."""
        if self.claims.lost(key, self._policy, self._now().boot_s):
            self.on_change()

    def _note_news(self, policy: Policy) -> None:
        if policy.has_news:
            policy.has_news = False
            self._remember()

    async def keep(self) -> NoReturn:
        """Writes down now and then who is there, for ever: a start goes by it."""
        while True:
            await asyncio.sleep(KEEP_S)
            if self._policy is not None and self._policy.mode != "off":
                now = self._now()
                self._note_members(now.boot_s)
                await asyncio.to_thread(self._state_dir.save, MEMORY, self.memory.dump(now))

    def close(self) -> None:
        """Writes down who was there."""
        if self._policy is not None and self._members.peers:
            self._note_members(self._now().boot_s)
            self._remember()

    def _note_members(self, now_s: float) -> None:
        if self._policy is not None:
            for peer in self._members.peers:
                self._policy.held(_remote(peer), now_s)

    def _remember(self) -> None:
        self._state_dir.save(MEMORY, self.memory.dump(self._now()))

    def is_raised_by(self, text: str | None) -> bool:
        """Returns whether a network config asks for more encryption than is in force.

        Such a one is followed at once; one that asks for less waits for a start, as others do.
        """
        try:
            asked = encryption_of(parse(text or "")).mode
        except NetworkConfigError:
            return False
        mode = self._mode or self.floor
        return effective(asked, mode) != mode

    @property
    def forbids_plain(self) -> bool:
        """Whether no packet may travel in plain, by the floor or the network config seen last."""
        return self._is_unknown or (self._mode or self.floor) != "off"

    @property
    def mode(self) -> Mode:
        """In force: the stronger of the network's and the floor."""
        return self._mode or self.floor

    @property
    def network_name(self) -> str:
        """By which hosts of one network know each other, whatever path to the store they take."""
        return self._options.network_name or clean_prefix(self._options.store.prefix)

    @property
    def provider(self) -> str:
        """The library that the operator wants packets to be sealed by; mostly `auto`."""
        return self._options.encryption_provider

    @property
    def is_asked(self) -> bool:
        """Whether the network config seen last asks for encryption, whatever the floor."""
        return self._asked != "off"

    @property
    def _floor_source(self) -> str:
        if self._options.encryption_floor is not None:
            return "by --encryption-floor of this host"
        return "by this host's floor, as identities or a PSK are configured"

    def reload(self) -> None:
        """Reads the files again; those in force stay where one is not usable."""
        try:
            self.trust, self.psks, self._counts = self._read()
        except TrustError as error:
            self.problem = f"{error}; what was read before stays in force"
            _log.error(
                "the files of trust are not usable; what was read before stays in force",
                extra={"fields": {"error": str(error)}},
            )
            raise
        self.problem = None
        if self._policy is not None:
            self._policy.trust = self.trust
        self.on_psks()
        self.on_change()
        _log.info(
            "the files of trust have been read again",
            extra={"fields": {"detail": self.trust.explanation}},
        )

    def order(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Does what a command asks for: `action` is `show`, `reload` or `allow-plain`.

        Raises:
            ControlError: the request is none of these.
            TrustError: the files are not usable; what was read before stays.
        """
        match request.get("action"):
            case "show":
                pass
            case "reload":
                self.reload()
            case "allow-plain" if isinstance(subnet := request.get("subnet"), str):
                return {"forgotten": self._allow_plain(subnet)}
            case _:
                raise ControlError(
                    "the request does not say what to do; expected 'action': show, reload, or "
                    "allow-plain with a 'subnet'"
                )
        identities, psk_file = self._options.identities, self._psk_file
        return {
            "identities": None if identities is None else str(identities.absolute()),
            "psk_file": None if psk_file is None else str(psk_file.absolute()),
            "psk_ids": list(self.psks.ids) if self.psks else [],
            "state_dir": str(self._state_dir.path.absolute()),
        }

    def _allow_plain(self, text: str) -> list[str]:
        try:
            what = ip_network(text)
        except ValueError:
            raise ControlError(f"{text!r} is no subnet; expected one like 10.5.3.0/24") from None
        gone = self.memory.allow_plain(what, self._now().boot_s)
        self._remember()
        self.on_change()
        return [str(one) for one in gone]

    def status(self) -> EncryptionStatus:
        """Returns what `tunneld status` shows of it."""
        identities, revoked = self._counts
        return EncryptionStatus(
            mode=self._mode,
            floor=self.floor,
            trust=self.trust.kind,
            explanation=self.trust.explanation,
            identities=identities,
            revoked=revoked,
            psk_ids=self.psks.ids if self.psks else (),
            network_name=self.network_name,
            public_key=None if self.key is None else str(self.key.public),
        )

    def name_of(self, verdict: Verdict) -> str | None:
        """Returns the name of a verdict's key, where keys have names."""
        return None if verdict.key is None else self.trust.name_of(verdict.key)

    def _read(self) -> tuple[Trust, Psks | None, tuple[int | None, int]]:
        options, path = self._options, self._psk_file
        revoked = files.read_revoked(options.state_dir)
        identities = files.read_identities(options.identities) if options.identities else None
        if path is not None:
            keep_out_of_core_dumps()
        psks = None if path is None else Psks.load(path, os.environ)
        trust = Trust(identities=identities, has_psk=psks is not None, revoked=revoked)
        return trust, psks, (None if identities is None else len(identities), len(revoked))

    def _remembered(self) -> Memory:
        try:
            return Memory.load(self._state_dir.load(MEMORY), self._now())
        except ValueError as error:
            _log.warning(
                "what was remembered of peers with keys is damaged; going on without it",
                extra={"fields": {"entry": MEMORY, "error": str(error)}},
            )
            return Memory()


def _but_for_mode(config: NetworkConfig) -> tuple[NetworkConfig, Encryption]:
    rest = {name: value for name, value in config.backend.items() if name.lower() != "encryption"}
    return replace(config, backend=rest), replace(encryption_of(config), mode="off")


def _remote(peer: Peer) -> Remote:
    addresses = (underlay_address(peer, 4), underlay_address(peer, 6))
    return Remote(
        subnets=frozenset(peer.key.subnets),
        addresses=frozenset(one for one in addresses if one is not None),
        encryption=peer.encryption,
    )
