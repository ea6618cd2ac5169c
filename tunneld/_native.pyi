"""The native data path. Control calls only: no packet reaches Python.

Every call returns within microseconds, except `stop`, which waits for the threads.
All values are plain data, so that the engine could live in a process of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, Self, TypedDict, final, type_check_only

__all__ = [
    "Aead",
    "Engine",
    "Identity",
    "Psks",
    "__version__",
    "aead_choices",
    "load_echo",
    "load_receive",
    "load_receive_streams",
    "load_round_trips",
    "load_send",
    "load_send_streams",
]

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
    esp_ipv4: NotRequired[Sequence[int]]
    """For ESP and its handshake, on a port of their own: the first receives, and sends if there is
    no second one. Worker 0 sends from that port, others from one of their own each. With encryption
    each worker needs one, and those above may be empty."""
    esp_ipv6: NotRequired[Sequence[int]]
    esp_ipv4_sidings: NotRequired[Sequence[int]]
    """As `ipv4_sidings`: one a siding."""
    esp_ipv6_sidings: NotRequired[Sequence[int]]

@type_check_only
class Encryption(TypedDict):
    identity: Identity
    psks: Psks | None
    network: str
    """Name of the network: hosts of two networks share no keys."""
    cipher: str
    """`auto`, or the one that alone is taken: `aes-256-gcm`, `aes-128-gcm`, `chacha20-poly1305`."""
    provider: str
    """`auto`, `aws-lc-rs` or `ring`."""
    instance: bytes
    """8 bytes, random for each start of the process."""
    claim: Sequence[str]
    """The subnets of this host, at most one of each family."""
    keepalive_s: float | None
    """Seconds between datagrams to each peer with keys, for hosts behind NAT; None: none."""

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
    """`raw`; `vxlan`, which needs settings with a `vtep`; `esp`, which needs encryption."""
    of_peer: dict[str, str]
    """What the encapsulation must know of the peer. `raw`: nothing. `vxlan`: `vtep_mac`, its inner
    Ethernet address, `aa:bb:cc:dd:ee:ff`. `esp`: `key`, its identity, and `subnet`, which it must
    claim in its handshake. A peer goes over from plain to keys at another moment than this host:
    `also_key` with `raw` and `vxlan` is an identity whose sealed packets are taken too, `also` with
    `esp` says `plain` where what comes so from its address is."""
    endpoint: str
    """IPv4 or IPv6 address. With `esp` packets go where the peer has proved to be."""
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
class TrustedIdentity(TypedDict):
    key: str
    """Public key, as `Identity.public_key` shows it."""
    endpoint: str | None
    """IPv4 or IPv6 address to try; None: it is not known."""
    port: int
    instance: str | None
    """Of its record, 16 hexadecimal digits. Another one than before is a restart."""

@type_check_only
class Change(TypedDict, total=False):
    settings: Settings
    put_adjacencies: list[Adjacency]
    drop_adjacencies: list[str]
    put_entries: list[Entry]
    drop_entries: list[str]
    put_identities: list[TrustedIdentity]
    """Handshakes are made with these, and answered to them, and to nobody else."""
    drop_identities: list[str]
    """By key. When the call returns, nothing is sealed for them and nothing of theirs opened."""

@type_check_only
class Digest(TypedDict):
    generation: int
    settings: Settings | None
    adjacencies: list[Adjacency]
    entries: list[Entry]
    identities: list[TrustedIdentity]

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
    `worker_ended`: a thread ended. `probe_answered`: a peer answered a probe. `keys_confirmed`: an
    identity has proved itself, and what it said takes effect. `keys_lost`: nothing is sealed for it
    any more. `handshake_given_up`: it did not answer; it is tried again when there is a packet. Of
    the keys of each identity the latest word is kept."""
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
    key: str | None
    """The three about keys: of which identity."""
    claim: list[str] | None
    """`keys_confirmed`: the subnets that it says are its own."""
    endpoint: str | None
    """`keys_confirmed`: where its packets go, `address:port`."""
    instance: str | None
    """`keys_confirmed`: which start of it this is, 16 hexadecimal digits."""
    packets: int | None
    """`handshake_given_up`: how many waited, and were dropped."""
    detail: str
    """`offload_lost`, `offload_back`, `worker_ended`: which one, and why."""

@type_check_only
class Security(TypedDict):
    key: str
    state: str
    """`none`; `handshake`: under way, and nothing is sealed yet; `confirmed`."""
    cipher: str | None
    """By which its packets are sealed; None: by none."""
    provider: str | None
    age_s: float | None
    """Of the keys in use, in seconds."""
    endpoint: str | None
    """Where it is tried, and its packets go: `address:port`."""
    last_handshake_s: float | None
    """How many seconds ago its last handshake was confirmed; None: none was."""
    claim: list[str]
    """The subnets that it said there are its own."""
    instance: str | None
    sets: int
    """How many sets of keys there are with it, old ones among them."""
    waiting_packets: int
    last_error: str | None
    """What went wrong last; None after a handshake that went well."""

@type_check_only
class OwnSecurity(TypedDict):
    public_key: str
    cipher: str
    """The one that is taken, or preferred."""
    provider: str
    port: int

@type_check_only
class Heartbeat(TypedDict):
    worker: int
    duty: str
    """Which directions the thread serves: `outbound`, `inbound` or `both`; `keying`: it agrees keys
    for all workers."""
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
        encryption: Encryption | None = None,
    ) -> Self:
        """Takes duplicates of the descriptors: the caller keeps and closes its own.

        The open files behind them become non-blocking, for the caller too.

        Worker i reads and writes TUN queue i and the sockets `underlay[i]`, with a thread for each
        direction if `split`, else with one for both. TUN queues carry a
        10-byte virtio_net_hdr; `icmp_fd` is a raw IPv4 socket with IP_HDRINCL (whole
        packets), `icmp6_fd` a raw socket of ICMPv6 (messages, to which the kernel gives source and
        checksum). Either may be None: then nothing is answered
        in that family. With `encryption` one thread more agrees keys.

        Raises:
            EngineError: the lists differ in length, are empty, or a descriptor is bad; or something
                in `encryption` cannot be, or the provider fails its self-test.
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
                where the settings, as they are after the change, have no `vtep`, one of `esp` or an
                identity without encryption. Or the engine has been stopped.
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

    def set_psks(self, psks: Psks | None) -> None:
        """Changes the PSKs; new keys are made with all identities that have some.

        Raises:
            EngineError: there is no encryption, or the engine has been stopped.
        """

    def set_claim(self, claim: Sequence[str]) -> None:
        """Says which subnets are this host's; if that is news, all that have keys are told.

        Raises:
            EngineError: a text is no subnet, or there are two of a family; there is no encryption,
                or the engine has been stopped.
        """

    def renew(self) -> None:
        """Makes new keys with all identities that have some, within 2 s.

        Raises:
            EngineError: there is no encryption, or the engine has been stopped.
        """

    def forget_keys(self) -> None:
        """Ends all keys at once and makes new ones: this memory may have been copied.

        Raises:
            EngineError: there is no encryption, or the engine has been stopped.
        """

    def connect(self, key: str) -> None:
        """Shakes hands with an identity whether or not there is a packet for it.

        With one that was not put it does nothing.

        Raises:
            EngineError: it is no public key, there is no encryption, or the engine has been
                stopped.
        """

    def security(self) -> list[Security]:
        """Returns how each identity that was put stands, sorted by key; none after the end.

        Raises:
            EngineError: there is no encryption.
        """

    def security_self(self) -> OwnSecurity:
        """Returns what this host is.

        Raises:
            EngineError: there is no encryption.
        """

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

# What `tunneld bench` measures with: tunneld/bench/native.py says what each does.
@final
class Aead:
    def __new__(cls, *, provider: str, cipher: str, size_bytes: int) -> Self: ...
    def seal(self, duration_s: float) -> tuple[int, int]: ...
    def open(self, duration_s: float) -> tuple[int, int]: ...

def aead_choices() -> dict[str, list[str]]: ...
def load_send(
    fd: int, *, token: bytes, sizes: list[int], per_second: float | None, duration_s: float
) -> dict[str, float]: ...
def load_receive(
    fd: int, *, token: bytes, timeout_s: float, silence_s: float, longest_s: float
) -> dict[str, float]: ...
def load_echo(fd: int, *, token: bytes, silence_s: float, longest_s: float) -> int: ...
def load_round_trips(
    fd: int, *, token: bytes, count: int, interval_s: float, patience_s: float, duration_s: float
) -> tuple[int, list[int]]: ...
def load_send_streams(fds: list[int], *, duration_s: float) -> tuple[list[int], float]: ...
def load_receive_streams(fds: list[int], *, longest_s: float) -> tuple[list[int], float]: ...
