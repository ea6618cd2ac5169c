"""What confirmed handshakes have said, and what becomes of a peer by that.

Beside the path of a lease: `engine` (events) -> **`daemon.claims`** (`trust.policy`) ->
`daemon.protection`. Keys are made anew every two minutes; only what changes how a peer is reached
makes a new plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from tunneld.lease.model import IPNetwork, RecordEncryption
from tunneld.trust.decision import Claim
from tunneld.trust.key import PublicKey
from tunneld.trust.policy import Policy, Remote, Verdict


class Claims:
    """The claims in force, by key, and the verdicts they were last judged to."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._remotes: dict[str, list[Remote]] = {}
        """The peers that show a key."""
        self.verdicts: dict[IPNetwork, Verdict] = {}
        """By subnet of the others, as they were judged last."""
        self._passing: set[IPNetwork] = set()
        """Those whose verdict ends by itself."""

    def keys(self) -> frozenset[str]:
        """Returns the keys in base64 of those with whom keys are agreed."""
        return frozenset(self._claims)

    def judge(
        self, policy: Policy, remotes: Iterable[Remote], now_s: float
    ) -> dict[IPNetwork, Verdict]:
        """Returns how each subnet of the others may be reached."""
        self._remotes, self.verdicts, self._passing = {}, {}, set()
        for remote in remotes:
            key = _key_of(remote)
            if key is not None:
                self._remotes.setdefault(key, []).append(remote)
            self._judge(policy, remote, now_s)
        return dict(self.verdicts)

    def confirmed(
        self, key: str, subnets: Iterable[str], policy: Policy | None, now_s: float
    ) -> bool:
        """Takes over what a peer claims; returns whether it is reached in another way by that."""
        claim = Claim(key=PublicKey.parse(key), subnets=frozenset(map(ip_network, subnets)))
        if self._claims.get(key) == claim:
            return False
        self._claims[key] = claim
        return self._reconsider(key, policy, now_s)

    def lost(self, key: str, policy: Policy | None, now_s: float) -> bool:
        """Forgets what a peer has claimed; returns whether it is reached in another way by that."""
        return self._claims.pop(key, None) is not None and self._reconsider(key, policy, now_s)

    def clear(self) -> None:
        """Forgets all claims: the keys are gone."""
        self._claims = {}

    def drop_verdicts(self) -> None:
        """Forgets how the others were judged: nobody asks any more."""
        self._remotes, self.verdicts, self._passing = {}, {}, set()

    def until_s(self) -> float | None:
        """Returns when the next verdict ends by itself; None: none does."""
        ends = (self.verdicts[subnet].until_s for subnet in self._passing)
        return min((end for end in ends if end is not None), default=None)

    def switching(self) -> frozenset[str]:
        """Returns the keys of peers that are reached in plain until theirs are confirmed."""
        return frozenset(
            str(one.key)
            for subnet in self._passing
            if (one := self.verdicts[subnet]).reason == "switching"
        )

    def _judge(self, policy: Policy, remote: Remote, now_s: float) -> None:
        claim = self._claims.get(_key_of(remote) or "")
        for subnet in remote.subnets:
            found = self.verdicts[subnet] = policy.judge(subnet, remote, claim, now_s)
            if found.until_s is None:
                self._passing.discard(subnet)
            else:
                self._passing.add(subnet)

    def _reconsider(self, key: str, policy: Policy | None, now_s: float) -> bool:
        if policy is None:
            return False
        is_other = False
        for remote in self._remotes.get(key, ()):
            before = {subnet: self.verdicts[subnet] for subnet in remote.subnets}
            self._judge(policy, remote, now_s)
            for subnet, former in before.items():
                found = self.verdicts[subnet]
                is_other |= (former.way, former.key) != (found.way, found.key)
        return is_other


def _key_of(remote: Remote) -> str | None:
    said = remote.encryption
    return said.key if isinstance(said, RecordEncryption) else None
