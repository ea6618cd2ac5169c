"""Hosts around a native engine that speaks ESP: number n is at 127.0.0.n, with subnet 10.5.n.0/24.

Over IPv6 it is at fd01::n, and its subnet is fd00:5:n::/64 as well. The device is a socket pair.
"""

from __future__ import annotations

import base64
import os
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.native.hosts import (
    TIMEOUT_S,
    VNET_HEADER,
    raw_icmp_socket,
    raw_icmpv6_socket,
    udp_socket,
)
from tests.native.packets import inner
from tunneld import _native

PORT = 8286
MTU_BYTES = 1438
NETWORK = "/coreos.com/network"


def address(number: int, family: int = 4) -> str:
    return f"127.0.0.{number}" if family == 4 else f"fd01::{number}"


def subnets(number: int, family: int = 4) -> list[str]:
    return [f"10.5.{number}.0/24"] + ([f"fd00:5:{number}::/64"] if family == 6 else [])


def psks(path: Path, *fill: int) -> _native.Psks:
    """Pre-shared keys, one for each number, in a file of their own."""
    lines = [base64.b64encode(b"psk of a test".ljust(32, bytes([one]))) for one in fill]
    path.write_bytes(b"\n".join(lines))
    path.chmod(0o600)
    return _native.Psks.load(path)


class KeyedHost:
    """An engine with encryption."""

    def __init__(
        self,
        space: Namespace,
        number: int,
        identity: _native.Identity,
        *,
        network: str = NETWORK,
        psks: _native.Psks | None = None,
        cipher: str = "auto",
        keepalive_s: float | None = None,
        family: int = 4,
        split: bool = False,
        sockets: _native.UnderlaySockets | None = None,
        pattern: str | None = None,
    ) -> None:
        """`sockets`: in the place of one for ESP at this host's address; `pattern`: where hosts are
        by their number, if not as above."""
        self._pattern = pattern
        self.number, self.family, self.identity = number, family, identity
        self.instance = os.urandom(8)
        self.device, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ExitStack() as opened:
            opened.enter_context(near)
            with inside(space):
                icmp = opened.enter_context(raw_icmp_socket())
                icmp6 = opened.enter_context(raw_icmpv6_socket())
                if sockets is None:
                    underlay = opened.enter_context(udp_socket(self.address_of(number), PORT))
                    sockets = {
                        "ipv4": [],
                        "ipv6": [],
                        "esp_ipv4": [underlay.fileno()] if family == 4 else [],
                        "esp_ipv6": [underlay.fileno()] if family == 6 else [],
                    }
            self.engine = _native.Engine(
                tun_fds=[near.fileno()],
                underlay=[sockets],
                icmp_fd=icmp.fileno(),
                icmp6_fd=icmp6.fileno(),
                split=split,
                encryption={
                    "identity": identity,
                    "psks": psks,
                    "network": network,
                    "cipher": cipher,
                    "provider": "auto",
                    "instance": self.instance,
                    "claim": subnets(number, family),
                    "keepalive_s": keepalive_s,
                },
            )
        self.device.settimeout(TIMEOUT_S)

    def __enter__(self) -> Self:
        self.engine.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.engine.stop()
        self.device.close()

    def address_of(self, number: int) -> str:
        return self._pattern.format(number) if self._pattern else address(number, self.family)

    @property
    def key(self) -> str:
        return self.identity.public_key

    def knows(self, peer: int, key: str, *, trusts: bool = True) -> None:
        """Commits all there is to know of a network of two."""
        names = {subnet: f"peer {subnet}" for subnet in subnets(peer, self.family)}
        targets = dict.fromkeys(subnets(self.number, self.family), "local") | names
        entries: list[_native.Entry] = [
            {"prefix": subnet, "target": target} for subnet, target in targets.items()
        ]
        self.engine.commit(
            {
                "settings": {
                    "source_check": "strict",
                    "device_mtu_bytes": MTU_BYTES,
                    "icmp_source": f"10.5.{self.number}.0",
                    "icmp_source_v6": f"fd00:5:{self.number}::" if self.family == 6 else None,
                    "vtep": None,
                },
                "put_adjacencies": [
                    {
                        "name": name,
                        "encapsulation": "esp",
                        "endpoint": self.address_of(peer),
                        "port": PORT,
                        "mtu_bytes": MTU_BYTES if self.family == 4 else 1418,
                        "of_peer": {"key": key, "subnet": subnet},
                    }
                    for subnet, name in names.items()
                ],
                "put_entries": entries,
                "put_identities": [self.identity_of(peer, key)] if trusts else [],
            }
        )

    def identity_of(self, peer: int, key: str) -> _native.TrustedIdentity:
        endpoint = self.address_of(peer)
        return {"key": key, "endpoint": endpoint, "port": PORT, "instance": None}

    def write(self, packet: bytes) -> None:
        """Hands the engine a packet, as the kernel does."""
        self.device.send(VNET_HEADER + packet)

    def read(self) -> bytes:
        """Returns the next packet that the engine writes to its device."""
        data = self.device.recv(70_000)
        assert data[:10] == VNET_HEADER
        return data[10:]

    def reads_nothing(self) -> bool:
        return not select.select([self.device], [], [], 0)[0]

    def drops(self) -> dict[str, int]:
        """Returns the reasons that occurred."""
        return {reason: count for reason, count in self.engine.counters()["drops"].items() if count}

    def wait_for_drop(self, reason: str, count: int = 1) -> None:
        wait_until(lambda: self.drops().get(reason, 0) >= count, what=f"{count} x {reason}")

    def peer(self) -> _native.Security:
        """How the only peer stands."""
        [one] = self.engine.security()
        return one

    def wait_for_keys(self) -> None:
        wait_until(lambda: self.peer()["state"] == "confirmed", what="keys")


def acquaint(a: KeyedHost, b: KeyedHost) -> None:
    a.knows(b.number, b.key)
    b.knows(a.number, a.key)


def numbered(source: KeyedHost, destination: KeyedHost, number: int) -> bytes:
    payload = number.to_bytes(4, "big") * 8
    return inner(f"10.5.{source.number}.2", f"10.5.{destination.number}.2", payload=payload)


def passes(source: KeyedHost, destination: KeyedHost, count: int = 1) -> None:
    for number in range(count):
        source.write(numbered(source, destination, number))
        assert destination.read() == numbered(source, destination, number)


def events(host: KeyedHost) -> list[tuple[str, str | None]]:
    return [(event["kind"], event["key"]) for event in host.engine.drain_events()]


def wait_for_event(host: KeyedHost, kind: str) -> _native.Event:
    found: list[_native.Event] = []

    def came() -> bool:
        found.extend(event for event in host.engine.drain_events() if event["kind"] == kind)
        return bool(found)

    wait_until(came, what=f"an event {kind}")
    return found[-1]


HostMaker = Callable[..., KeyedHost]
"""Makes the host of a number, with an identity of its own; `how` as `KeyedHost` takes it."""
