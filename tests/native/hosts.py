"""Hosts around a native engine: its device is a socket pair or a TUN, its underlay real UDP.

All sockets live in a network namespace of the test, whose loopback is the underlay: 127.0.0.1 is
this host, 127.0.0.2 the peer `b` with subnet 10.5.2.0/24, 127.0.0.3 the peer `c` with 10.5.3.0/24.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self, cast

from testbed.netns import Namespace, inside
from testbed.process import thread_states
from testbed.wait import wait_until
from tunneld import _native

PORT = 8285
MTU_BYTES = 1472
VNET_HEADER = bytes(10)
TIMEOUT_S = 60.0
"""How long a test waits for what comes at once where nobody else needs the processors."""

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI, IFF_MULTI_QUEUE, IFF_VNET_HDR = 0x0001, 0x1000, 0x0100, 0x4000


def udp_socket(address: str, port: int = PORT, *, is_shared: bool = False) -> socket.socket:
    """Opens a bound socket with a large receive buffer; DF is always set, as in the daemon.

    `is_shared`: one of several on the address and port, of which the kernel keeps a peer on one.
    """
    is_ipv6 = ":" in address
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
    sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    if is_ipv6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
    else:
        sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    sock.bind((address, port))
    return sock


def raw_icmp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def raw_icmpv6_socket() -> socket.socket:
    return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)


def open_tun(name: str) -> int:
    """Opens a queue of a TUN device of the current namespace; returns its descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return fd


def adjacency(
    name: str,
    endpoint: str,
    mtu_bytes: int = MTU_BYTES,
    port: int = PORT,
    vtep_mac: str | None = None,
) -> _native.Adjacency:
    """An adjacency without encapsulation, or with VXLAN where there is an address for it."""
    return {
        "name": name,
        "encapsulation": "raw" if vtep_mac is None else "vxlan",
        "endpoint": endpoint,
        "port": port,
        "mtu_bytes": mtu_bytes,
        "of_peer": {} if vtep_mac is None else {"vtep_mac": vtep_mac},
        "outer_df": "kernel",
    }


def settings(
    source_check: str = "strict",
    mtu_bytes: int = MTU_BYTES,
    vtep: _native.Vtep | None = None,
) -> _native.Settings:
    return {
        "source_check": source_check,
        "device_mtu_bytes": mtu_bytes,
        "icmp_source": "10.5.1.0",
        "icmp_source_v6": None,
        "vtep": vtep,
    }


def pause(engine: _native.Engine) -> None:
    """Pauses an engine; returns once no thread of it reads any more.

    One that was just about to read takes what is there, and only then sees the pause.
    """
    engine.pause()
    # The pause has woken those that slept: who sleeps now, waits for its end.
    wait_until(lambda: _sleeps(engine), what="every thread at rest")


def _sleeps(engine: _native.Engine) -> bool:
    states = thread_states(os.getpid())
    return all(states.get(beat["thread_id"]) == "S" for beat in engine.heartbeat())


def keep_order(engine: _native.Engine) -> None:
    """Keeps each thread of a running engine on one processor.

    A link inside the machine has a queue for each processor: who is moved between two packets may
    overtake himself, on a machine that is busy.
    """
    processors = sorted(os.sched_getaffinity(0))
    beats = wait_until(lambda: _begun(engine), what="every thread of the engine")
    for beat in beats:
        processor = processors[beat["worker"] % len(processors)]
        os.sched_setaffinity(beat["thread_id"], {processor})


@contextmanager
def in_order(engine: _native.Engine) -> Iterator[None]:
    """Keeps this thread on one processor, and the engine's for good."""
    processors = os.sched_getaffinity(0)
    keep_order(engine)
    os.sched_setaffinity(0, {max(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def _begun(engine: _native.Engine) -> list[_native.Heartbeat]:
    beats = engine.heartbeat()
    return beats if all(beat["thread_id"] for beat in beats) else []


def over_ipv4(*sockets: socket.socket | int) -> _native.UnderlaySockets:
    """Sockets of one worker."""
    fds = [sock if isinstance(sock, int) else sock.fileno() for sock in sockets]
    return {"ipv4": fds, "ipv6": []}


def by_family(sockets: Sequence[socket.socket]) -> _native.UnderlaySockets:
    """Sockets of one worker."""
    fds = {
        family: [sock.fileno() for sock in sockets if sock.family == family]
        for family in (socket.AF_INET, socket.AF_INET6)
    }
    return {"ipv4": fds[socket.AF_INET], "ipv6": fds[socket.AF_INET6]}


def network(source_check: str = "strict") -> _native.Change:
    """What host a knows of the network."""
    return {
        "settings": settings(source_check),
        "put_adjacencies": [
            adjacency("b", "127.0.0.2"),
            adjacency("c", "127.0.0.3", mtu_bytes=1400),
        ],
        "put_entries": [
            {"prefix": "10.5.1.0/24", "target": "local"},
            {"prefix": "10.5.2.0/24", "target": "b"},
            {"prefix": "10.5.3.0/24", "target": "c"},
        ],
    }


def dual_stack(source_check: str = "strict") -> _native.Change:
    """The same network with IPv6 in it: `b` has fd00:5:2::/64, `c` fd00:5:3::/64."""
    change = network(source_check)
    change["settings"]["icmp_source_v6"] = "fd00:5:1::"
    change["put_entries"] += [
        {"prefix": "fd00:5:1::/64", "target": "local"},
        {"prefix": "fd00:5:2::/64", "target": "b"},
        {"prefix": "fd00:5:3::/64", "target": "c"},
    ]
    return change


def engine_on_tun(space: Namespace, name: str, *, split: bool = False) -> _native.Engine:
    """Makes an engine over a new TUN device, which is gone when the engine is."""
    with ExitStack() as opened:
        with inside(space):
            tun = open_tun(name)
            opened.callback(os.close, tun)
            underlay = opened.enter_context(udp_socket("127.0.0.1"))
            icmp = opened.enter_context(raw_icmp_socket())
        return _native.Engine(
            tun_fds=[tun],
            underlay=[over_ipv4(underlay)],
            icmp_fd=icmp.fileno(),
            icmp6_fd=None,
            split=split,
        )


class Host:
    """An engine in a namespace, at 127.0.0.1 unless `underlay` holds other sockets (which are
    closed), or `sockets` their numbers; `device` is the far end of its device. `split`: with a
    thread for each direction."""

    def __init__(
        self,
        space: Namespace,
        change: _native.Change | None = None,
        underlay: Sequence[socket.socket] = (),
        *,
        split: bool = False,
        sockets: _native.UnderlaySockets | None = None,
    ) -> None:
        self.device, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with inside(space):
            underlay = underlay or ([] if sockets else [udp_socket("127.0.0.1")])
            icmp = raw_icmp_socket()
            icmp6 = raw_icmpv6_socket()
        with ExitStack() as opened:
            for sock in (near, icmp, icmp6, *underlay):
                opened.enter_context(sock)
            self.engine = _native.Engine(
                tun_fds=[near.fileno()],
                underlay=[sockets or by_family(underlay)],
                icmp_fd=icmp.fileno(),
                icmp6_fd=icmp6.fileno(),
                split=split,
            )
        self.device.settimeout(TIMEOUT_S)
        if change is not None:
            self.engine.commit(change)

    def __enter__(self) -> Self:
        self.engine.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.engine.stop()
        self.device.close()

    def write(self, packet: bytes, header: bytes = VNET_HEADER) -> None:
        """Hands the engine a packet, as the kernel does."""
        self.device.send(header + packet)

    def read(self) -> bytes:
        """Returns the next packet the engine writes to its device."""
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

    def traffic(self, name: str) -> _native.AdjacencyCounters:
        return self.engine.counters()["adjacencies"][name]

    def wait_for_traffic(self, name: str, key: str, count: int) -> None:
        """Waits for a count of traffic: packets are counted first, then their bytes."""

        def there() -> bool:
            reading = cast(dict[str, int], self.traffic(name))
            return reading[key] >= count

        wait_until(there, what=f"{key} of {name} reaching {count}")
