"""`python -m bench.memory`: a daemon's memory with many peers; raw figures. Needs root.

The peers are leases in the store, as other daemons would have written them; two daemons read them.
Source: proc(5) for VmRSS and VmHWM.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from bench.lab.session import carry_out
from tunneld import __version__
from tunneld.bench.local.ours import Tunneld
from tunneld.bench.local.pair import remove_all
from tunneld.lease.model import LeaseAttributes, NodeRecord, SubnetKey
from tunneld.lease.registry import Claim
from tunneld.store.sqlite.store import SqliteStore

PEERS: Final = (1, 1_000, 10_000)
_PREFIX: Final = "/coreos.com/network"
_LEASE_S: Final = 86_400.0
_ADDRESSES: Final = IPv4Network("198.18.0.0/15")
"""RFC 2544's range for benchmarks; nothing is sent there."""


class ManyPeers(Tunneld):
    """Two daemons of which each knows the other, and `leases` that nobody is behind."""

    label = "memory"
    network = "10.0.0.0/8"

    def __init__(self, directory: Path, leases: int) -> None:
        super().__init__(directory)
        self.leases = leases
        self.peers = leases + 1
        self.began_s = 0.0
        """When the daemons were started."""

    def write_config(self) -> None:
        super().write_config()
        asyncio.run(_write_leases(self.store, self.leases))
        self.began_s = time.monotonic()


async def _write_leases(path: Path, count: int) -> None:
    store = SqliteStore(path, _PREFIX)
    subnets = IPv4Network(ManyPeers.network).subnets(new_prefix=24)
    next(subnets)
    try:
        grant = await store.grant(_LEASE_S)
        for number, subnet in zip(range(count), subnets, strict=False):
            key, public_ip = SubnetKey(subnet), _ADDRESSES[number + 1]
            record = NodeRecord(
                node_id=f"{number:032x}", key=key, public_ip=public_ip, version=__version__
            )
            await store.claim(
                Claim(
                    key=key,
                    attributes=LeaseAttributes(public_ip=public_ip),
                    record=record,
                    grant=grant,
                    expected_revision=0,
                )
            )
    finally:
        await store.close()


def measure(peers: int, directory: Path) -> dict[str, float]:
    """Returns the memory of the larger of both daemons, in megabytes (10⁶ bytes)."""
    overlay = ManyPeers(directory, peers - 1)
    overlay.pair.build("gso")
    try:
        overlay.start()
        ready_s = time.monotonic() - overlay.began_s
        overlay.wait_connected()
        seen = [_memory_mb(pid) for pid in overlay.pids]
    finally:
        overlay.stop()
        remove_all()
    largest = max(seen, key=lambda one: one["rss_mb"])
    return {"peers": peers, **largest, "ready_s": round(ready_s, 2)}


def _memory_mb(pid: int) -> dict[str, float]:
    text = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
    names = {"rss_mb": "VmRSS", "peak_mb": "VmHWM"}
    return {name: round(int(found[line]) * 1024 / 1e6, 1) for name, line in names.items()}


def main() -> int:
    return carry_out("memory", (partial(measure, peers) for peers in PEERS))


if __name__ == "__main__":
    sys.exit(main())
