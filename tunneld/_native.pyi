"""The native data path. Control calls only: no packet reaches Python.

Every call returns within microseconds, except `stop`, which waits for the threads.
All values are plain data, so that the engine could live in a process of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, Self, TypedDict, final, type_check_only

__all__ = ["Engine", "Identity", "Psks", "__version__"]

__version__: str

@type_check_only
class Vtep(TypedDict):
    vni: int
    gbp: bool
    """Whether the group policy extension is spoken: its bits are then let pass."""
    mac: str | None
    """Inner Ethernet address frames with IPv4 must have as destination; None: no IPv4 here."""
    mac_v6: str | None

@type_check_only
class UnderlaySockets(TypedDict):
    ipv4: Sequence[int]
    """None, or the socket that receives (and sends) first; the rest only send: flows are spread
    over them by a hash of the inner packet, where there are any."""
    ipv6: Sequence[int]
    ipv4_sidings: NotRequired[Sequence[int]]
    """For peers set aside as their way is full, siding after siding: of each one socket for each of
    those above that send, bound to the same port and to an address that nothing arrives for. The
    address of the first one above is named as the source of each datagram. Without them a thread
    waits some milliseconds for a full underlay."""
    ipv6_sidings: NotRequired[Sequence[int]]

@type_check_only
class Settings(TypedDict):
    source_check: str
    """`strict`, `loose` or `off`."""
    device_mtu_bytes: int
    icmp_source: str | None
    """IPv4 address; None: the network has no IPv4."""
    icmp_source_v6: str | None
    vtep: Vtep | None
    """None: a datagram's payload is the inner packet, and no adjacency is `vxlan`. Else it is
    VXLAN, and must be for us."""

@type_check_only
class Adjacency(TypedDict):
    name: str
    encapsulation: str
    """`raw`, or `vxlan`, which needs settings with a `vtep`."""
    of_peer: dict[str, str]
    """What the encapsulation must know of the peer. `raw`: nothing. `vxlan`: `vtep_mac`, its inner
    Ethernet address, `aa:bb:cc:dd:ee:ff`."""
    endpoint: str
    """IPv4 or IPv6 address."""
    port: int
    mtu_bytes: int
    outer_df: NotRequired[str]
    """`kernel` (also where it is left out): datagrams go whole, and what the kernel has heard of
    the path's MTU holds; `probed`: whole, whatever the kernel has heard; `clear`: in fragments, by
    routers too. There in every digest."""

@type_check_only
class Entry(TypedDict):
    prefix: str
    """`a.b.c.d/len` or `a:b::/len`, no host bits."""
    target: str
    """Name of an adjacency, or `local`."""

@type_check_only
class Change(TypedDict, total=False):
    settings: Settings
    put_adjacencies: list[Adjacency]
    drop_adjacencies: list[str]
    put_entries: list[Entry]
    drop_entries: list[str]

@type_check_only
class Digest(TypedDict):
    generation: int
    settings: Settings | None
    adjacencies: list[Adjacency]
    entries: list[Entry]

@type_check_only
class AdjacencyCounters(TypedDict):
    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int
    last_rx: float | None
    """Seconds on the monotonic clock (CLOCK_MONOTONIC), or None: never."""

@type_check_only
class WorkerCounters(TypedDict):
    worker: int
    direction: str
    """`outbound` or `inbound`."""
    batches: int
    packets: int
    bytes: int

@type_check_only
class Counters(TypedDict):
    adjacencies: dict[str, AdjacencyCounters]
    drops: dict[str, int]
    """By reason; every reason the engine knows is present, also at 0."""
    workers: list[WorkerCounters]
    icmp_sent: int
    icmp_suppressed: int
    receive_drops: int
    """Datagrams that the kernel dropped on arrival, as a socket was full; 0 after the end."""

@type_check_only
class Event(TypedDict):
    kind: str
    """`path_mtu`: the underlay refused a datagram for its size. `offload_lost`: the kernel refused
    an offload at work; the data path does without for a while. `offload_back`: it takes it again.
    `worker_ended`: a thread ended. `probe_answered`: a peer answered a probe."""
    adjacency: str | None
    """`path_mtu`; `offload_lost`: of `udp_gso` the first peer whose path refuses it."""
    size_bytes: int | None
    """`path_mtu`: size of the inner packet that did not fit."""
    path_mtu_bytes: int | None
    """`path_mtu`: largest IP packet the path takes, as the kernel told the socket that was refused;
    None: it did not. Reported once a second for each peer, and when it changes."""
    token: int | None
    """`probe_answered`: that of the probe."""
    path: int | None
    """`probe_answered`: number of the socket that it was sent by."""
    detail: str
    """`offload_lost`, `offload_back`, `worker_ended`: which one, and why."""

@type_check_only
class Heartbeat(TypedDict):
    worker: int
    duty: str
    """Which directions the thread serves: `outbound`, `inbound` or `both`."""
    thread_id: int
    """The kernel's number of the thread (gettid(2)); 0 before it has begun to run."""
    alive: bool
    beats: int
    """Rises at least once a second while the thread is healthy, also when there is no traffic."""

@final
class Engine:
    """A data path over descriptors that Python opened. Thread-safe."""

    def __new__(
        cls,
        *,
        tun_fds: Sequence[int],
        underlay: Sequence[UnderlaySockets],
        icmp_fd: int | None,
        icmp6_fd: int | None,
        split: bool,
    ) -> Self:
        """Takes duplicates of the descriptors: the caller keeps and closes its own.

        The open files behind them become non-blocking, for the caller too.

        Worker i reads and writes TUN queue i and the sockets `underlay[i]`, with a thread for each
        direction if `split`, else with one for both. TUN queues carry a
        10-byte virtio_net_hdr; `icmp_fd` is a raw IPv4 socket with IP_HDRINCL (whole
        packets), `icmp6_fd` a raw socket of ICMPv6 (messages, to which the kernel gives source and
        checksum). Either may be None: then nothing is answered
        in that family.

        Raises:
            EngineError: the lists differ in length, are empty, or a descriptor is bad.
        """

    @property
    def event_fd(self) -> int:
        """An eventfd that is readable while `drain_events` has something."""

    def start(self) -> None:
        """Starts the threads.

        Raises:
            EngineError: they have been started before, or the kernel gives no threads.
        """

    def commit(self, change: Change) -> int:
        """Carries out a change, whole or not at all; returns the new generation.

        Items of `drop_*` that are not there are ignored. An adjacency keeps its counters when
        it is put again under its name.

        Raises:
            EngineError: names the first bad item: an address, prefix or number that does not
                parse, an entry whose target is unknown, an adjacency still in use, one of `vxlan`
                where the settings, as they are after the change, have no `vtep`. Or the engine has
                been stopped.
        """

    @property
    def generation(self) -> int:
        """The number of changes so far: while it is the same, so is what the engine holds."""

    def digest(self) -> Digest:
        """Returns what the engine holds, sorted."""

    def counters(self) -> Counters:
        """Returns a reading of all counters; they only rise."""

    def set_offload(self, name: str, enabled: bool) -> None:
        """Switches an offload on or off while packets move; on also ends a fallback.

        Raises:
            EngineError: the name is none of those of `offloads`, the offload is not supported
                here, or the engine has been stopped.
        """

    def take_used(self) -> list[str]:
        """Returns the names of the adjacencies that were sent to since the last call.

        ICMP from the overlay address of this host does not count: answers to probes, for one.
        """

    def probe(self, destination: str, size_bytes: int, token: int) -> int:
        """Sends an echo request of `size_bytes` to a peer's overlay address, by every socket.

        An answer is an event and no packet. What is smaller than an echo request with its token, or
        leads to no peer, is not sent. Returns how many answers to expect, with numbers below that;
        0: too many wait to be sent.

        Raises:
            EngineError: it does not parse, or the engine does not run.
        """

    def offloads(self) -> dict[str, str]:
        """Returns how each offload stands: `on`, `off`, `unsupported` or `fallback: <why>`.

        A fallback is tried again by itself; of `udp_gso` it is about some peers' paths, as it says.

        `tun_tso`, `tun_uso`: the device hands over super-packets. `udp_gso`, `udp_gro`: the
        underlay socket takes and gives trains of datagrams. `coalesce_tcp`, `coalesce_udp`:
        arriving packets are joined to super-packets. What works is on from the start; for that it
        is tried on the descriptors when the engine is made.
        """

    def drain_events(self) -> list[Event]:
        """Returns what came up since the last call, oldest first; at most 1,024 are kept."""

    def heartbeat(self) -> list[Heartbeat]:
        """Returns one entry per thread."""

    def pause(self) -> None:
        """Stops reading from the TUN and the underlay; the kernel's queues hold what comes.

        Each thread finishes the batch in hand first.
        """

    def resume(self) -> None:
        """Undoes `pause`."""

    def stop(self) -> None:
        """Ends the threads and waits for them; afterwards only counters and digest answer."""

@final
class Identity:
    """The X25519 key of a node. The secret half never leaves the native module."""

    @staticmethod
    def create(path: Path) -> Identity:
        """Makes a key and its file (mode 0600), where there must be none.

        Raises:
            TrustError: the file is there, or cannot be made.
        """

    @staticmethod
    def replace(path: Path) -> Identity:
        """Makes a key and puts its file in the place of the former one, in one step.

        Raises:
            TrustError: it cannot be made; the former one stays.
        """

    @staticmethod
    def load(path: Path) -> Identity:
        """Reads the key from its file.

        Raises:
            TrustError: it cannot be read, is open to others, or holds no key.
        """

    @property
    def public_key(self) -> str:
        """The public key, in base64 as WireGuard shows it."""

@final
class Psks:
    """One or two pre-shared keys, which never leave the native module."""

    @staticmethod
    def load(path: Path, *, is_credential: bool = False) -> Psks:
        """Reads the keys from their file: base64, one a line, comments behind `#`.

        `is_credential`: it is one of systemd's, whose mode has a group where an ACL lets the
        service's user in.

        Raises:
            TrustError: it cannot be read, is open to others, or holds no one or two keys of 32 to
                64 bytes.
        """

    @property
    def ids(self) -> list[str]:
        """By which a handshake names them, 8 hexadecimal digits each, in the file's order."""
