"""What may travel in plain: the mode in force, and for each subnet plain, encrypted or not at all.

Path of a lease: `peer` -> **`trust.policy`** -> `fib`. Pure: the time is passed in.

The mode is the stronger of what the network config says and a floor of this host: nothing that
the store says lowers the floor. With `preferred` a peer that shows keys, or did within a day, is
not talked to in plain. Only when it shows them for the first time plain goes on until its first SA
is confirmed, ten seconds at most: so a network is moved without losing a packet. It is moved back
in two steps of ten seconds, since hosts hear of it at different moments: first a host takes plain
and still sends what is sealed, then it sends plain and still takes what is sealed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tunneld.lease.model import IPAddress, IPNetwork, RecordEncryption, Unreadable
from tunneld.trust.decision import Announced, Claim, Missing, Trust, holder
from tunneld.trust.key import PublicKey
from tunneld.trust.memory import Memory

Mode: TypeAlias = Literal["off", "preferred", "required"]
MODES: Final[tuple[Mode, ...]] = ("off", "preferred", "required")
"""The weakest first."""

SWITCH_S: Final = 10.0
"""How long a peer that shows keys for the first time may still be talked to in plain."""

LOWER_S: Final = 10.0
"""How long each of the two steps back to plain takes: by then every host has seen the config."""

Way: TypeAlias = Literal["plain", "encrypted", "unreachable"]
Reason: TypeAlias = Literal[
    "mode_off",
    "no_keys",
    "switching",
    "lowered",
    "keys",
    "required",
    "had_keys",
    "not_listed",
    "unreadable_keys",
    "own_key",
    "untrusted",
    "claim",
]


def effective(network: Mode, floor: Mode) -> Mode:
    """Returns the stronger of the network's mode and this host's floor."""
    return max(network, floor, key=MODES.index)


def default_floor(*, is_local: bool) -> Mode:
    """Returns the floor where none is given; `is_local`: identities or a PSK are configured."""
    return "required" if is_local else "off"


def refusal(
    mode: Mode, *, backend_type: str, datapath: str, uses_direct_routes: bool
) -> str | None:
    """Returns why a backend cannot serve a mode, and what to do; None: it can.

    Args:
        mode: the mode in force.
        backend_type: of the network.
        datapath: what moves its packets: `userspace`, `kernel` or `none`.
        uses_direct_routes: whether peers on the same link get plain routes.
    """
    if mode == "off":
        return None
    if datapath == "kernel" and backend_type == "vxlan":
        return (
            f"encryption is {mode}, and the kernel's vxlan device sends in plain; expected "
            "--datapath userspace"
        )
    if backend_type in ("host-gw", "alloc"):
        # With `preferred` too: no peer with keys could be reached.
        return (
            f"encryption is {mode}, and the {backend_type} backend leaves packets as they are; "
            "expected udp or vxlan as Backend.Type"
        )
    if uses_direct_routes and mode == "required":
        return (
            f"encryption is {mode}, and DirectRouting sends in plain to peers on the same link; "
            "take it out of the network config"
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A peer as the store describes it."""

    subnets: frozenset[IPNetwork]
    addresses: frozenset[IPAddress]
    encryption: RecordEncryption | Unreadable | None
    """What its record says of keys; None: it has no record, or one without keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a subnet of a peer may be reached."""

    way: Way
    reason: Reason
    detail: str
    """Why, for `status`; what is missing, and what the operator can do."""
    key: PublicKey | None = None
    """The key that handshakes are made with, also with a peer that claims another subnet: it may
    claim this one next. None: with nobody."""
    is_confirmed: bool = False
    """`encrypted`: whether the holder has claimed the subnet in a handshake."""
    until_s: float | None = None
    """On the caller's clock. `switching`: when it ends at the latest. `encrypted`: until when the
    peer, which was plain a moment ago, may still send in plain: it switches at another moment."""


class Policy:
    """The rules of one host for the peers of one network."""

    def __init__(
        self,
        *,
        mode: Mode,
        trust: Trust,
        memory: Memory,
        plain_peers: Iterable[IPNetwork] | None = None,
    ) -> None:
        """`plain_peers`: the only subnets and addresses plain may go to; None: any."""
        self.mode = mode
        self.trust = trust
        self.memory = memory
        self._plain_peers = None if plain_peers is None else tuple(plain_peers)
        self._switches: dict[_Place, float] = {}
        """When those that show keys for the first time stop being reached in plain."""
        self._ends: dict[_Place, float] = {}
        """The same of those whose keys are confirmed: they may still send so."""
        self._lowered_s: float | None = None
        """When encryption was switched off while peers were reached; None: it was not."""
        self.own: PublicKey | None = None
        """This host's, with which it makes no handshakes; None: it has none."""
        self.has_news = False
        """Whether the memory holds what it did not hold at the last look; the caller clears it."""

    def follow(self, mode: Mode, remotes: Iterable[Remote], now_s: float) -> None:
        """Takes over another mode while `remotes` are talked to."""
        before, self.mode = self.mode, mode
        if before == mode:
            return
        self._lowered_s = None
        self._switches.clear()
        self._ends.clear()
        if mode == "off":
            self._lowered_s = now_s
        elif before == "off":
            remotes = tuple(remotes)
            # They were talked to in plain as the network had it, whatever they had before.
            self.memory.with_keys.forget_peers(map(_place, remotes))
            self.has_news = True
            for remote in remotes:
                self._note_plain(remote, now_s)
                self._switches[_place(remote)] = now_s + SWITCH_S

    def lowered_until_s(self, now_s: float) -> float | None:
        """Returns when the way back to plain is over; None: there is none under way."""
        if self._lowered_s is None:
            return None
        until_s = self._lowered_s + 2 * LOWER_S
        return until_s if now_s < until_s else None

    def judge(
        self, subnet: IPNetwork, remote: Remote, claim: Claim | None, now_s: float
    ) -> Verdict:
        """Returns how `subnet` of a peer may be reached.

        Args:
            subnet: one of the peer's.
            remote: the peer.
            claim: what a confirmed handshake with its key has said; None: there was none.
            now_s: time on the boot clock.
        """
        if self.mode == "off":
            self._note_plain(remote, now_s)
            lowered = self._lowered(subnet, remote, claim, now_s)
            return lowered or Verdict(way="plain", reason="mode_off", detail="encryption is off")
        said = remote.encryption if self._shows_keys(remote, now_s) else None
        if said is None:
            return self._without_keys(remote, now_s)
        is_first = self._note_keys(remote, now_s)
        key = self._usable_key(said)
        if isinstance(key, Verdict):
            return key
        announced = Announced(key=key, addresses=remote.addresses)
        found = holder(subnet, announced, claim, self.trust)
        if isinstance(found, Missing) and claim is not None and found.party != "trust":
            return Verdict(way="unreachable", reason="claim", detail=found.detail, key=key)
        if isinstance(found, Missing):
            return self._unconfirmed(remote, key, found, is_first=is_first, now_s=now_s)
        return Verdict(
            way="encrypted",
            reason="keys",
            detail="lease, claim and trust agree",
            key=key,
            is_confirmed=True,
            until_s=self._end_of_plain(_place(remote), now_s),
        )

    def _lowered(
        self, subnet: IPNetwork, remote: Remote, claim: Claim | None, now_s: float
    ) -> Verdict | None:
        """Returns how a peer with keys is reached on the way back to plain; None: as any other."""
        if self._lowered_s is None or claim is None or not self._shows_keys(remote, now_s):
            return None
        key = None if remote.encryption is None else self._usable_key(remote.encryption)
        if key is None or isinstance(key, Verdict):
            return None
        announced = Announced(key=key, addresses=remote.addresses)
        if isinstance(holder(subnet, announced, claim, self.trust), Missing):
            return None
        first_s, last_s = self._lowered_s + LOWER_S, self._lowered_s + 2 * LOWER_S
        if now_s < first_s:
            return Verdict(
                way="encrypted",
                reason="lowered",
                detail="encryption was switched off; what it sends in plain is taken already",
                key=key,
                is_confirmed=True,
                until_s=first_s,
            )
        if now_s < last_s:
            return Verdict(
                way="plain",
                reason="lowered",
                detail="encryption was switched off; what it sends encrypted is still taken",
                key=key,
                is_confirmed=True,
                until_s=last_s,
            )
        return None

    def _end_of_plain(self, place: _Place, now_s: float) -> float | None:
        """Returns until when a peer with keys may send in plain, as it is about to switch."""
        # Once confirmed, it is not sent to in plain any more, whatever becomes of the keys.
        if (switch_s := self._switches.pop(place, None)) is not None:
            self._ends[place] = switch_s
        until_s = self._ends.get(place)
        if until_s is None or now_s < until_s:
            return until_s
        del self._ends[place]
        return None

    def held(self, remote: Remote, now_s: float) -> None:
        """Says that a peer has held its lease, as it is, until now.

        In a quiet network nobody asks for a verdict, and a day is counted from the last lease.
        """
        if self.mode == "off":
            self._note_plain(remote, now_s)
        elif self._shows_keys(remote, now_s):
            self._note_keys(remote, now_s)
        else:
            self.memory.plain.touch(remote.subnets, remote.addresses, now_s)

    def _shows_keys(self, remote: Remote, now_s: float) -> bool:
        """Returns whether its record shows keys, and those of a tunneld that is still there."""
        said = remote.encryption
        if not isinstance(said, RecordEncryption):
            return said is not None
        subnets, addresses = remote.subnets, remote.addresses
        return not self.memory.is_of_before(subnets, addresses, said.instance, now_s)

    def _usable_key(self, said: RecordEncryption | Unreadable) -> PublicKey | Verdict:
        """Returns the key of a record, or the verdict where there is none that can be used."""
        if isinstance(said, Unreadable):
            detail = f"its record has keys that cannot be read: {said.detail}"
            return _unreachable("unreadable_keys", detail)
        try:
            key = PublicKey.parse(said.key)
        except ValueError as error:
            detail = f"the key in its record is not usable: {error}"
            return _unreachable("unreadable_keys", detail)
        if key == self.own:
            return _unreachable(
                "own_key",
                "its record names the key of this host itself; if its state directory is a copy "
                "of this one's, run `tunneld identity new` there",
            )
        return key

    def _without_keys(self, remote: Remote, now_s: float) -> Verdict:
        if self.mode == "required":
            return _unreachable("required", "encryption is required, and it has no keys")
        had = self.memory.with_keys.find(remote.subnets, remote.addresses, now_s)
        if had is not None:
            subnets = ",".join(sorted(map(str, remote.subnets)))
            return _unreachable(
                "had_keys",
                f"{had} had keys within 24 h, and has none now; if it went back to plain, run "
                f"`tunneld trust allow-plain {subnets}`",
            )
        if self._plain_peers is not None and not self._is_listed(remote, self._plain_peers):
            return _unreachable(
                "not_listed", "it has no keys, and is not among the hosts of --plain-peers"
            )
        self._note_plain(remote, now_s)
        return Verdict(
            way="plain",
            reason="no_keys",
            detail="it has no keys, and encryption is only preferred: whoever writes the store "
            "decides that",
        )

    def _unconfirmed(
        self,
        remote: Remote,
        key: PublicKey,
        missing: Missing,
        *,
        is_first: bool,
        now_s: float,
    ) -> Verdict:
        if missing.party == "trust":
            return _unreachable("untrusted", missing.detail)
        place = _place(remote)
        was_plain = self.memory.plain.find(remote.subnets, remote.addresses, now_s)
        if self.mode == "preferred" and is_first and was_plain is not None:
            self._switches[place] = now_s + SWITCH_S
        until_s = self._switches.get(place)
        if until_s is not None and now_s < until_s and self._may_be_plain(remote):
            return Verdict(
                way="plain",
                reason="switching",
                detail="it shows keys for the first time, and is reached in plain until they are "
                "confirmed",
                key=key,
                until_s=until_s,
            )
        self._switches.pop(place, None)
        return Verdict(way="encrypted", reason="keys", detail=missing.detail, key=key)

    def _may_be_plain(self, remote: Remote) -> bool:
        return self._plain_peers is None or self._is_listed(remote, self._plain_peers)

    def _is_listed(self, remote: Remote, listed: tuple[IPNetwork, ...]) -> bool:
        if remote.addresses and all(
            any(address in network for network in listed) for address in remote.addresses
        ):
            return True
        return all(any(_within(subnet, network) for network in listed) for subnet in remote.subnets)

    def _note_keys(self, remote: Remote, now_s: float) -> bool:
        """Remembers that a peer has keys; returns whether nothing was known of that."""
        known = self.memory.with_keys.find(remote.subnets, remote.addresses, now_s)
        said = remote.encryption
        instance = said.instance if isinstance(said, RecordEncryption) else None
        self.has_news |= self.memory.with_keys.add(
            remote.subnets, remote.addresses, now_s, instance
        )
        return known is None

    def _note_plain(self, remote: Remote, now_s: float) -> None:
        self.has_news |= self.memory.plain.add(remote.subnets, remote.addresses, now_s)


def _unreachable(reason: Reason, detail: str) -> Verdict:
    return Verdict(way="unreachable", reason=reason, detail=detail)


_Place: TypeAlias = tuple[frozenset[IPNetwork], frozenset[IPAddress]]


def _place(remote: Remote) -> _Place:
    return remote.subnets, remote.addresses


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
