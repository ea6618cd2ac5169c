//! Datagrams from the underlay on their way to the overlay device.
//!
//! Path of a packet: underlay → `io` → **`core::inbound`** → `io` → TUN.
//! What becomes of a message that `io` has received:
//!
//! 1. The socket says by which encapsulation datagrams arrive, of the backend's the FIB; from here on
//!    the code is that one's own.
//! 2. What the kernel joined is split into datagrams (`split_len`), each judged by itself (`take`).
//! 3. The encapsulation comes off, in place (`strip`): an inner packet with its origin, or a message
//!    of the encapsulation itself, which goes to the `controls`. ESP is opened here.
//! 4. The version must be one the network has, and the header be right (`accept`, `parse`).
//! 5. The origin must be allowed to send from that source, and the destination be ours (`check`).
//! 6. A congestion mark of the underlay is passed on (RFC 6040).
//! 7. An answer to a probe of ours goes no further.
//! 8. A hop is taken where the tunnel takes one; what a kernel's tunnel left to the device is told to
//!    ours.
//! 9. The packet stays where it lies in the receive memory, and joins the deliveries: to a
//!    super-packet, where that loses nothing.
//! 10. `io` writes the deliveries at the end of the batch, and tells what the device took.
//!
//! A datagram that goes no further is counted under one reason.
//!
//! Source: RFC 1812 §5.2.2, §5.3.1; flannel's udp backend (one hop is taken at each end).

mod source;
mod unknown;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use tunneld_wire::ecn::Ecn;
use tunneld_wire::ip::{Malformed, Version};
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;
use tunneld_wire::{icmp, ip, ipv4, ipv6};

use crate::adjacency_id::AdjacencyId;
use crate::checksum_partial::{self, Known};
use crate::coalescing::{Deliveries, Delivery, Kinds};
use crate::control::Controls;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::encapsulation::{Decapsulate, Opener, Origin, Raw, Runs, Stripped, Via, by_arrival};
use crate::fib::{Fib, Settings, Target};
use crate::packet_sizes::PacketSizes;
use crate::probe::{Answers, Mark};
use crate::replies::Replies;
use crate::sad::Sad;
use source::{check_claim, check_plain};
use unknown::Sources;

/// The inbound half of a worker. After a batch: write, tell what became of it, [`clear`].
///
/// [`clear`]: Self::clear
pub struct Inbound {
    runs: Runs,
    /// How datagrams arrive at the port of encryption; `None`: there is none.
    opener: Option<Opener>,
    intake: Intake,
}

/// What takes datagrams, whatever is around the packets in them.
struct Intake {
    worker: usize,
    counters: Arc<WorkerCounters>,
    deliveries: Deliveries,
    replies: Replies,
    controls: Controls,
    unknown_spis: Sources,
    answers: Answers,
    checked: Option<Checked>,
    sizes: Arc<PacketSizes>,
}

/// Addresses that were checked in this batch, and the peer of such packets.
struct Checked {
    origin: Origin,
    addresses: [IpAddr; 3],
    adjacency: Option<AdjacencyId>,
}

/// What the underlay's header said of a message.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// Where it came from.
    pub source: SocketAddr,
    /// The congestion mark of all its datagrams: the kernel joins none with others.
    pub ecn: Ecn,
}

impl From<SocketAddr> for Outer {
    fn from(source: SocketAddr) -> Self {
        Self { source, ecn: Ecn::NotEct }
    }
}

/// A message in the receive memory: a datagram, or several that the kernel joined.
struct Message {
    outer: Outer,
    place: Range<usize>,
    segment_len: Option<usize>,
    now_ns: u64,
}

/// What is the same for all datagrams of a message.
struct Common<'a> {
    fib: &'a Fib,
    settings: &'a Settings,
    source: IpAddr,
    ecn: Ecn,
    /// As the encapsulation has it. They are no parameters of the code: with a copy of what follows for
    /// each encapsulation, the compiler stops inlining into any.
    takes_hop: bool,
    arrives_uncut: bool,
    /// What the kernel says of segments inside.
    inner_segment_len: Option<usize>,
    now_ns: u64,
}

impl Inbound {
    /// Returns the inbound half of `worker`, which counts into `counters` as their only writer.
    pub fn new(worker: usize, counters: Arc<WorkerCounters>) -> Self {
        let intake = Intake {
            worker,
            counters,
            deliveries: Deliveries::default(),
            replies: Replies::default(),
            controls: Controls::default(),
            unknown_spis: Sources::default(),
            answers: Answers::default(),
            checked: None,
            sizes: Arc::default(),
        };
        Self { runs: Runs::default(), opener: None, intake }
    }

    /// Opens what comes by ESP, under the sets of `sad`.
    #[must_use]
    pub fn opening(mut self, sad: Arc<Sad>) -> Self {
        self.opener = Some(Opener(sad));
        self
    }

    /// Cuts super-packets of connections as the outbound halves that share `sizes` heard.
    #[must_use]
    pub fn cutting_by(mut self, sizes: Arc<PacketSizes>) -> Self {
        self.intake.sizes = sizes;
        self
    }

    /// Takes answers to probes with that mark.
    #[must_use]
    pub fn probing_as(mut self, mark: Mark) -> Self {
        self.intake.answers = Answers::to(mark);
        self
    }

    /// Says what is joined to super-packets from now on.
    pub const fn set_coalescing(&mut self, kinds: Kinds) {
        self.intake.deliveries.set_kinds(kinds);
    }

    /// Takes one message that came by a socket of `via`, and lies at `place` of the receive memory:
    /// datagrams of `segment_len` bytes where the kernel joined several, else one. Each goes to the
    /// deliveries, to the control messages, or to the drops.
    ///
    /// All messages of a batch need the same `fib` and the same memory, each a place of its own.
    /// `now_ns` is on the clock that the SAs of `sad` end by.
    #[allow(clippy::too_many_arguments, reason = "what a receive says of a message")]
    pub fn handle(
        &mut self,
        fib: &Fib,
        via: Via,
        outer: impl Into<Outer>,
        memory: &mut [u8],
        place: Range<usize>,
        segment_len: Option<usize>,
        now_ns: u64,
    ) {
        let Self { runs, opener, intake } = self;
        intake.counters.bytes.add(place.len() as u64);
        let message = Message { outer: outer.into(), place, segment_len, now_ns };
        let Some((settings, arrival)) = fib.arrival() else {
            intake.refuse(memory, &message);
            return;
        };
        match (via, opener) {
            (Via::Plain, _) => by_arrival!(arrival, runs, (way, run) => {
                intake.take(way, run, (fib, settings), memory, message);
            }),
            (Via::Esp, Some(opener)) => {
                intake.take(opener, &mut runs.esp, (fib, settings), memory, message);
            }
            (Via::Esp, None) => intake.refuse(memory, &message),
        }
    }

    /// Counts a datagram that did not fit its receive slot.
    pub fn truncated_by_kernel(&mut self) {
        self.intake.counters.packets.add(1);
        self.intake.counters.drops(DropReason::Oversized).add(1);
    }
}

impl Intake {
    /// Counts the datagrams of a message that comes before there are settings.
    #[cold]
    fn refuse(&self, memory: &[u8], message: &Message) {
        let step = Raw.split_len(&memory[message.place.clone()], message.segment_len);
        let count = message.place.len().div_ceil(step).max(1) as u64;
        self.counters.packets.add(count);
        self.counters.drops(DropReason::NotConfigured).add(count);
    }

    /// Takes the datagrams of a message one by one.
    fn take<D: Decapsulate>(
        &mut self,
        way: &D,
        run: &mut D::Run,
        (fib, settings): (&Fib, &Settings),
        memory: &mut [u8],
        message: Message,
    ) {
        let Message { outer, place, segment_len, now_ns } = message;
        let step = way.split_len(&memory[place.clone()], segment_len);
        // Where the kernel's length is not that of datagrams, it is that of segments inside.
        let inner_segment_len = segment_len.filter(|len| *len < step);
        let (source, ecn) = (outer.source.ip(), outer.ecn);
        let (takes_hop, arrives_uncut) = (D::TAKES_HOP, D::ARRIVES_UNCUT);
        let common = Common {
            fib,
            settings,
            source,
            ecn,
            takes_hop,
            arrives_uncut,
            inner_segment_len,
            now_ns,
        };
        let (mut start, last) = (place.start, place.end);
        loop {
            let end = last.min(start + step);
            self.counters.packets.add(1);
            let taken = match way.strip(run, &mut memory[start..end], now_ns) {
                Ok(Stripped::Packet { place, origin }) => {
                    let place = start + place.start..start + place.end;
                    self.accept(&common, origin, memory, place)
                }
                Ok(Stripped::Control) => self.controls.push(outer.source, &memory[start..end]),
                Ok(Stripped::Dummy) => Ok(()),
                Err(DropReason::EspUnknownSpi) => {
                    self.unknown_spis.note(outer.source);
                    Err(DropReason::EspUnknownSpi)
                }
                Err(reason) => Err(reason),
            };
            if let Err(reason) = taken {
                self.counters.drops(reason).add(1);
            }
            start = end;
            if start == last {
                return;
            }
        }
    }

    #[inline]
    fn accept(
        &mut self,
        common: &Common<'_>,
        origin: Origin,
        memory: &mut [u8],
        place: Range<usize>,
    ) -> Result<(), DropReason> {
        let version = Version::of(&memory[place.clone()]).ok_or(DropReason::Empty)?;
        common.settings.check_family(version)?;
        match version {
            Version::V4 => self.accept_as::<ipv4::Header>(common, origin, memory, place),
            Version::V6 => self.accept_as::<ipv6::Header>(common, origin, memory, place),
            Version::Other(_) => Err(DropReason::BadVersion),
        }
    }

    #[inline(never)]
    fn accept_as<H: ip::Header>(
        &mut self,
        common: &Common<'_>,
        origin: Origin,
        memory: &mut [u8],
        place: Range<usize>,
    ) -> Result<(), DropReason> {
        let &Common { fib, settings, source, ecn, inner_segment_len, now_ns, .. } = common;
        let packet = &mut memory[place.clone()];
        let header = parse::<H>(packet)?;
        let adjacency = self.check((fib, settings), origin, source, &header)?;
        if ecn.may_change_inner() {
            pass_mark_on(ecn, &header, packet)?;
        }
        let may_be_answer = matches!(header.protocol(), ip::PROTOCOL_ICMP | ip::PROTOCOL_ICMPV6);
        if may_be_answer && self.answers.take(settings, &header, packet) {
            return Ok(());
        }
        if common.takes_hop && !H::take_hop(packet) {
            let error = icmp::Error::TimeExceeded;
            self.replies.push(error, settings, packet, now_ns, &self.counters);
            return Err(DropReason::HopLimitExceeded);
        }
        let vnet = if common.arrives_uncut {
            let mtu = usize::from(settings.device_mtu_bytes);
            let (segment_len, sizes) = (inner_segment_len, &*self.sizes);
            checksum_partial::prepare(&header, packet, Known { segment_len, mtu, sizes })?
        } else {
            VnetHeader::default()
        };
        self.deliveries.push(memory, place, &header, adjacency, vnet);
        Ok(())
    }

    /// Returns the peer that a packet came by, if it may come that way and is for us. The packet
    /// before had mostly the same addresses.
    #[inline]
    fn check<H: ip::Header>(
        &mut self,
        (fib, settings): (&Fib, &Settings),
        origin: Origin,
        outer_source: IpAddr,
        header: &H,
    ) -> Result<Option<AdjacencyId>, DropReason> {
        let addresses = [outer_source, header.source().into(), header.destination().into()];
        let known = self.checked.as_ref();
        let same = known.filter(|known| known.addresses == addresses && known.origin == origin);
        if let Some(checked) = same {
            return Ok(checked.adjacency);
        }
        let adjacency = match origin {
            Origin::Address => check_plain(fib, settings, outer_source, header.source())?,
            Origin::Peer(number) => Some(check_claim(fib, number, header.source())?),
        };
        if fib.lookup(header.destination()) != Some(Target::Local) {
            return Err(DropReason::WrongDestination);
        }
        self.checked = Some(Checked { origin, addresses, adjacency });
        Ok(adjacency)
    }
}

impl Inbound {
    /// Returns what goes to the device.
    pub const fn deliveries(&self) -> &Deliveries {
        &self.intake.deliveries
    }

    /// Returns what is to be sent as ICMP.
    pub const fn replies(&self) -> &Replies {
        &self.intake.replies
    }

    /// Returns the answers to probes that came; they go no further.
    pub const fn answers(&mut self) -> &mut Answers {
        &mut self.intake.answers
    }

    /// Returns this half's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.intake.counters
    }

    /// Counts some packets of a delivery, `bytes` in all, as taken by the device.
    pub fn delivered(
        &self,
        fib: &Fib,
        delivery: &Delivery,
        packets: usize,
        bytes: usize,
        now_ns: u64,
    ) {
        if let Some(adjacency) = delivery.adjacency {
            let counters = &fib.adjacency(adjacency).counters;
            counters.inbound(self.intake.worker).count(packets, bytes, now_ns);
        }
    }

    /// Counts packets of a delivery as dropped.
    pub fn refused(&self, reason: DropReason, packets: usize) {
        self.intake.counters.drops(reason).add(packets as u64);
    }

    /// Returns the messages of the encapsulation that came; they go to no device.
    pub const fn controls(&self) -> &Controls {
        &self.intake.controls
    }

    /// Returns where ESP came from in this batch with an SPI that no set has, each address once, and
    /// no more than a few.
    pub fn unknown_spis(&self) -> &[SocketAddr] {
        self.intake.unknown_spis.all()
    }

    /// Returns whether something authentic came in this batch under a set that is not confirmed:
    /// that confirms it.
    pub const fn proves(&self) -> bool {
        self.runs.esp.proves
    }

    /// Makes room for the next batch.
    pub fn clear(&mut self) {
        self.runs = Runs::default();
        self.intake.deliveries.clear();
        self.intake.replies.clear();
        self.intake.controls.clear();
        self.intake.unknown_spis.clear();
        self.intake.checked = None;
    }
}

/// Reads the inner header, each fault under its own reason.
fn parse<H: ip::Header>(inner: &[u8]) -> Result<H, DropReason> {
    let header = H::parse(inner).map_err(|malformed| match malformed {
        Malformed::Truncated { .. } => DropReason::Truncated,
        Malformed::Version { .. } => DropReason::BadVersion,
        Malformed::HeaderLength { .. } => DropReason::BadHeaderLength,
        Malformed::TotalLengthTooLong { .. } => DropReason::InnerLengthTooLong,
        Malformed::TotalLengthTooShort { .. } => DropReason::InnerLengthTooShort,
    })?;
    if !header.has_right_checksum(inner) {
        return Err(DropReason::BadHeaderChecksum);
    }
    Ok(header)
}

/// Marks a packet as the datagram around it was.
#[cold]
fn pass_mark_on<H: ip::Header>(
    outer: Ecn,
    header: &H,
    packet: &mut [u8],
) -> Result<(), DropReason> {
    let ecn = outer.around(header.ecn()).ok_or(DropReason::UnexpectedCongestionMark)?;
    if ecn != header.ecn() {
        H::set_ecn(packet, ecn);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
