//! Packets from the overlay device on their way to a peer.
//!
//! Path of a packet: TUN → `io` → **`core::outbound`** → `batch` → `io` → underlay.
//! What becomes of a packet that the device handed over, in one pass over its bytes:
//!
//! 1. Its version must be one the network has (`forward`).
//! 2. Its header is parsed, and its destination must be one that a router passes on (`forward_as`).
//! 3. The destination is looked up: a peer's adjacency, or an answer that there is no route.
//! 4. The adjacency says by which encapsulation it leaves; from here on the code is that one's own.
//! 5. Hop limit, then MTU (`emit`): too large with DF is answered, without it leaves in fragments.
//! 6. The encapsulation begins: it refuses the packet, or takes what its datagrams need (`begin`).
//!    Where ESP has no keys yet, a copy waits for them (`waiting`).
//! 7. The flow chooses the path, and with it a queue of the batch.
//! 8. The bytes are copied, once: whole (`copy`), or segment by segment (`segment`), each checksum
//!    finished on the way; `Around::finish` writes what goes around them, or seals them.
//! 9. The datagram joins a train of the batch. Where there is no more room, the rest of a
//!    super-packet waits: `io` sends, and goes on with it (`resume`).
//! 10. `io` sends the batch and tells what went (`sent`), and what did not (`refused`).
//!
//! A packet that goes no further is counted under one reason and, where its sender can be told,
//! answered through `replies`.
//!
//! Source: RFC 1812 §5.2, §5.3.1; flannel's udp backend (one hop is taken at each end).

mod again;
mod probing;
mod refused;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};
use tunneld_wire::{icmp, ip, ipv4, ipv6};

use crate::adjacency::{Adjacency, OuterDf};
use crate::adjacency_id::AdjacencyId;
use crate::batch::{Passage, Purpose, SendBatch, Train};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::encapsulation::{Around, Encapsulate, by_way};
use crate::fib::{Fib, Settings, Target};
use crate::flow;
use crate::packet_sizes::PacketSizes;
use crate::probe::Mark;
use crate::replies::Replies;
use crate::sad::Protected;
use crate::segmentation::Segmentation;
use crate::waiting::Waiting;
pub use refused::Refused;

/// The outbound half of a worker. After a batch: send, tell what became of it, [`clear`].
///
/// [`clear`]: Self::clear
pub struct Outbound {
    worker: usize,
    counters: Arc<WorkerCounters>,
    batch: SendBatch,
    replies: Replies,
    unfinished: Option<Unfinished>,
    sizes: Arc<PacketSizes>,
    mark: Mark,
    waiting: Option<Arc<Waiting>>,
    /// Whether packets were left there since somebody last asked.
    left_some: bool,
}

/// A super-packet that the batch had not enough room for.
struct Unfinished {
    to: To,
    version: Version,
    segmentation: Segmentation,
    /// The first segment that is not in a batch yet.
    next: usize,
}

/// A packet whose header has been read.
struct Parsed<'a, H> {
    header: H,
    bytes: &'a [u8],
    vnet: VnetHeader,
}

/// What decisions go by.
#[derive(Clone, Copy)]
struct View<'a> {
    fib: &'a Fib,
    settings: &'a Settings,
    now_ns: u64,
}

/// Where a packet goes, and how.
#[derive(Clone, Copy)]
struct To {
    id: AdjacencyId,
    endpoint: SocketAddr,
    queue: usize,
    passage: Passage,
}

impl Outbound {
    /// Returns the outbound half of `worker`, which counts into `counters` as their only writer.
    pub fn new(worker: usize, counters: Arc<WorkerCounters>) -> Self {
        Self {
            worker,
            counters,
            batch: SendBatch::default(),
            replies: Replies::default(),
            unfinished: None,
            sizes: Arc::default(),
            mark: Mark::default(),
            waiting: None,
            left_some: false,
        }
    }

    /// Spreads flows over that many sockets of each family, at least one.
    #[must_use]
    pub fn spread_over(self, paths: usize) -> Self {
        Self { batch: SendBatch::new(paths), ..self }
    }

    /// Leaves packets for peers without keys in `waiting`.
    #[must_use]
    pub fn leaving_in(self, waiting: Arc<Waiting>) -> Self {
        Self { waiting: Some(waiting), ..self }
    }

    /// Tells the inbound halves that share `sizes` what connections say of their packets.
    #[must_use]
    pub fn telling(self, sizes: Arc<PacketSizes>) -> Self {
        Self { sizes, ..self }
    }

    /// Gives probes that mark.
    #[must_use]
    pub fn probing_as(self, mark: Mark) -> Self {
        Self { mark, ..self }
    }

    /// Takes one packet as the device handed it over: into the batch, or to the drops.
    ///
    /// All packets of a batch need the same `fib`. `now_ns` is on the clock that SAs end by. Where a
    /// super-packet does not fit, [`is_unfinished`] holds afterwards: send the batch, [`clear`],
    /// then [`resume`] with the same FIB and packet, until it does not.
    ///
    /// [`is_unfinished`]: Self::is_unfinished
    /// [`clear`]: Self::clear
    /// [`resume`]: Self::resume
    pub fn handle(&mut self, fib: &Fib, vnet: VnetHeader, packet: &[u8], now_ns: u64) {
        self.counters.packets.add(1);
        self.counters.bytes.add(packet.len() as u64);
        if let Err(reason) = self.forward(fib, vnet, packet, now_ns) {
            self.counters.drops(reason).add(1);
        }
    }

    fn forward(
        &mut self,
        fib: &Fib,
        vnet: VnetHeader,
        bytes: &[u8],
        now_ns: u64,
    ) -> Result<(), DropReason> {
        let settings = fib.settings().ok_or(DropReason::NotConfigured)?;
        let version = Version::of(bytes).ok_or(DropReason::Malformed)?;
        settings.check_family(version)?;
        let view = View { fib, settings, now_ns };
        match version {
            Version::V4 => self.forward_as::<ipv4::Header>(view, vnet, bytes),
            Version::V6 => self.forward_as::<ipv6::Header>(view, vnet, bytes),
            Version::Other(_) => Err(DropReason::Malformed),
        }
    }

    fn forward_as<H: ip::Header>(
        &mut self,
        view: View<'_>,
        vnet: VnetHeader,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let header = H::parse(bytes).map_err(|_| DropReason::Malformed)?;
        if !header.is_routable() {
            return Err(DropReason::NotRoutable);
        }
        let packet = Parsed { header, bytes, vnet };
        let id = match view.fib.lookup(header.destination()) {
            Some(Target::Adjacency(id)) => id,
            Some(Target::Local) => return Err(DropReason::OwnSubnet),
            None => {
                self.answer(view, icmp::Error::NoRoute, bytes);
                return Err(DropReason::NoRoute);
            }
        };
        let adjacency = view.fib.adjacency(id);
        by_way!(&adjacency.way, way => self.emit(way, view, (id, adjacency), &packet))
    }

    /// Decides hop limit and MTU, and writes the datagram into the batch.
    fn emit<E: Encapsulate, H: ip::Header>(
        &mut self,
        way: &E,
        view: View<'_>,
        (id, adjacency): (AdjacencyId, &Adjacency),
        packet: &Parsed<'_, H>,
    ) -> Result<(), DropReason> {
        let parameters = &adjacency.parameters;
        if E::TAKES_HOP && packet.header.hop_limit() <= 1 {
            self.answer(view, icmp::Error::TimeExceeded, packet.bytes);
            return Err(DropReason::HopLimitExceeded);
        }
        let segmentation = match packet.vnet.gso {
            Gso::None => None,
            _ => {
                let (vnet, header) = (&packet.vnet, &packet.header);
                Some(Segmentation::new(vnet, header, packet.bytes, E::TAKES_HOP)?)
            }
        };
        let longest =
            segmentation.as_ref().map_or(packet.bytes.len(), |packet| packet.segment_len(0));
        let mut df = parameters.outer_df;
        if longest > usize::from(parameters.mtu_bytes) {
            if must_be_told(&packet.header, longest) {
                let error = icmp::Error::TooBig { next_hop_mtu_bytes: parameters.mtu_bytes };
                self.answer(view, error, packet.bytes);
                return Err(DropReason::TooBig);
            }
            df = OuterDf::Clear;
        }
        let datagrams = segmentation.as_ref().map_or(1, Segmentation::count);
        let around = match way.begin(self.worker, H::VERSION, datagrams, view.now_ns) {
            Ok(around) => around,
            Err(reason) => {
                return self.wait(reason, way.peer(), (packet.vnet, packet.bytes), view.now_ns);
            }
        };
        let passage = Passage { df, purpose: purpose(view.settings, &packet.header) };
        let (endpoint, queue) = match around.endpoint() {
            None => {
                let path = flow::path(&packet.header, packet.bytes, self.batch.paths());
                let endpoint = parameters.endpoint;
                (endpoint, self.batch.queue_for(&endpoint, path))
            }
            Some(endpoint) => {
                let by_port = self.is_by_port(&endpoint, &parameters.endpoint);
                (endpoint, self.batch.esp_queue_for(id, &endpoint, by_port))
            }
        };
        let to = To { id, endpoint, queue, passage };
        match segmentation {
            None => self.copy::<E, H>(around, to, packet),
            Some(segmentation) => {
                let whole = Unfinished { to, version: H::VERSION, segmentation, next: 0 };
                self.segment::<E>(around, whole, packet.bytes);
                Ok(())
            }
        }
    }

    /// Leaves a packet that has no keys where it waits for them; any other is dropped for `reason`.
    #[cold]
    fn wait(
        &mut self,
        reason: DropReason,
        peer: Option<&Arc<Protected>>,
        (vnet, packet): (VnetHeader, &[u8]),
        now_ns: u64,
    ) -> Result<(), DropReason> {
        let (Some(peer), Some(waiting)) = (peer, &self.waiting) else { return Err(reason) };
        let may_wait = reason == DropReason::NoKeys && peer.takes_waiters(now_ns);
        if !may_wait || !waiting.push(peer, vnet, packet) {
            return Err(reason);
        }
        self.left_some = true;
        Ok(())
    }

    /// Returns whether packets were left to wait since the last call.
    pub const fn take_left(&mut self) -> bool {
        std::mem::replace(&mut self.left_some, false)
    }

    /// Writes a packet that is no super-packet into the batch.
    fn copy<E: Encapsulate, H: ip::Header>(
        &mut self,
        mut around: E::Around<'_>,
        to: To,
        packet: &Parsed<'_, H>,
    ) -> Result<(), DropReason> {
        let inner_len = packet.bytes.len();
        let slot = self.batch.slot(to.queue, E::HEAD + inner_len + E::TAIL);
        let slot = slot.ok_or(DropReason::UnderlayRefused)?;
        let inner = &mut slot[E::HEAD..E::HEAD + inner_len];
        if packet.vnet.needs_checksum() {
            // What is summed must not change with the hop.
            if usize::from(packet.vnet.checksum_start) < H::LEN {
                return Err(DropReason::Malformed);
            }
            let done = packet.vnet.copy_finished(inner, packet.bytes);
            done.map_err(|_| DropReason::Malformed)?;
        } else {
            inner.copy_from_slice(packet.bytes);
        }
        if E::TAKES_HOP {
            H::take_hop(inner);
        }
        if E::ARRIVES_UNCUT {
            self.sizes.learn(&packet.header, packet.bytes);
        }
        let len = around.finish(slot)?;
        self.push(to, inner_len, len);
        Ok(())
    }

    /// Writes the segments of a super-packet into the batch, as many as it has room for.
    fn segment<E: Encapsulate>(
        &mut self,
        mut around: E::Around<'_>,
        packet: Unfinished,
        bytes: &[u8],
    ) {
        let Unfinished { to, ref segmentation, next, .. } = packet;
        for index in next..segmentation.count() {
            let inner_len = segmentation.segment_len(index);
            let Some(slot) = self.batch.slot(to.queue, E::HEAD + inner_len + E::TAIL) else {
                self.unfinished = Some(Unfinished { next: index, ..packet });
                return;
            };
            segmentation.write(bytes, index, &mut slot[E::HEAD..E::HEAD + inner_len]);
            match around.finish(slot) {
                Ok(len) => self.push(to, inner_len, len),
                Err(reason) => self.refused(reason, 1),
            }
        }
    }

    fn push(&mut self, to: To, inner_len: usize, len: usize) {
        self.batch.push(to.queue, to.id, to.endpoint, to.passage, inner_len, len);
    }

    /// Returns whether the last packet handled is not all in the batch.
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Goes on with the packet that was unfinished, whose bytes are the same as before.
    pub fn resume(&mut self, fib: &Fib, packet: &[u8], now_ns: u64) {
        if let Some(rest) = self.unfinished.take() {
            let adjacency = fib.adjacency(rest.to.id);
            let recorded = adjacency.parameters.endpoint;
            by_way!(&adjacency.way, way => self.go_on(way, recorded, rest, (packet, now_ns)));
        }
    }

    /// Returns whether ESP leaves by the port of encryption itself. Where a peer was heard from
    /// elsewhere than its record says, there is a translation of addresses on the way: it lets in
    /// what comes from the port that was sent to, and the lanes of further workers come from others.
    fn is_by_port(&self, endpoint: &SocketAddr, recorded: &SocketAddr) -> bool {
        self.worker > 0 && endpoint != recorded
    }

    fn go_on<E: Encapsulate>(
        &mut self,
        way: &E,
        recorded: SocketAddr,
        mut rest: Unfinished,
        (packet, now_ns): (&[u8], u64),
    ) {
        let left = rest.segmentation.count() - rest.next;
        match way.begin(self.worker, rest.version, left, now_ns) {
            Ok(around) => {
                // The keys may be others than before, and the peer be elsewhere.
                if let Some(endpoint) = around.endpoint() {
                    let by_port = self.is_by_port(&endpoint, &recorded);
                    let queue = self.batch.esp_queue_for(rest.to.id, &endpoint, by_port);
                    rest.to = To { endpoint, queue, ..rest.to };
                }
                self.segment::<E>(around, rest, packet);
            }
            Err(reason) => self.refused(reason, left),
        }
    }

    #[cold]
    fn answer(&mut self, view: View<'_>, error: icmp::Error, offender: &[u8]) {
        self.replies.push(error, view.settings, offender, view.now_ns, &self.counters);
    }

    /// Returns what is to be sent to the underlay.
    pub const fn batch(&self) -> &SendBatch {
        &self.batch
    }

    /// Returns what is to be sent as ICMP.
    pub const fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Returns this half's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Counts some datagrams of a train as sent.
    pub fn sent(&self, fib: &Fib, train: &Train, datagrams: &Range<usize>, now_ns: u64) {
        let traffic = fib.adjacency(train.adjacency).counters.outbound(self.worker);
        match train.passage.purpose {
            Purpose::Traffic => {}
            Purpose::Quiet => traffic.quiet.add(datagrams.len() as u64),
            Purpose::Probe => return,
        }
        traffic.count(datagrams.len(), self.batch.inner_len(train, datagrams), now_ns);
    }

    /// Counts datagrams of the batch as dropped.
    pub fn refused(&self, reason: DropReason, datagrams: usize) {
        self.counters.drops(reason).add(datagrams as u64);
    }

    /// Makes room for the next batch.
    ///
    /// A packet that is unfinished stays so.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.replies.clear();
    }
}

/// Returns whether the sender of a packet of `len` bytes that does not fit has to send less, as
/// nobody on the way may fragment it. Nobody sends less than the least MTU of a link for being told.
fn must_be_told<H: ip::Header>(header: &H, len: usize) -> bool {
    header.dont_fragment() && len > H::MIN_MTU
}

/// Returns what a packet is for. ICMP from the overlay's own address is nobody's traffic: answers to
/// probes above all, which would otherwise keep two idle hosts probing each other.
fn purpose<H: ip::Header>(settings: &Settings, header: &H) -> Purpose {
    let is_icmp = matches!(header.protocol(), ip::PROTOCOL_ICMP | ip::PROTOCOL_ICMPV6);
    if is_icmp && settings.is_own_address(header.source().into()) {
        Purpose::Quiet
    } else {
        Purpose::Traffic
    }
}

#[cfg(test)]
mod tests;
