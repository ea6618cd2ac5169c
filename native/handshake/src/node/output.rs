//! What a node wants done, and why it does nothing.

use std::fmt;
use std::net::SocketAddr;

use zeroize::Zeroizing;

use crate::cipher::Cipher;
use crate::key::PublicKey;
use crate::payload::Claim;

/// Names an SA pair set: the SPI base that this node chose and listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

/// The SAs of one handshake, both directions. Its keys are wiped when dropped.
#[derive(Clone)]
pub struct SaSet {
    /// The peer it is shared with.
    pub peer: PublicKey,
    /// The SPI base to open: what names the set.
    pub id: SetId,
    /// The SPI base to seal under.
    pub send_spi_base: u32,
    /// Lanes that this node seals with.
    pub send_lanes: u8,
    /// Lanes that the peer seals with.
    pub receive_lanes: u8,
    /// The cipher of both directions.
    pub cipher: Cipher,
    /// What the keys of lanes to seal with are derived from.
    pub send_key: Zeroizing<[u8; 32]>,
    /// What the keys of lanes to open with are derived from.
    pub receive_key: Zeroizing<[u8; 32]>,
    /// What the peer said it holds: nothing from outside it comes out of this set.
    pub claim: Claim,
    /// Whether this node began the handshake.
    pub is_initiator: bool,
}

impl fmt::Debug for SaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaSet({:08x} with {})", self.id.0, self.peer)
    }
}

/// Something to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send a handshake message.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The whole message.
        message: Vec<u8>,
    },
    /// Open what comes under a set. Nothing is sealed under it before [`Output::Confirmed`].
    Install(Box<SaSet>),
    /// The other side has proved itself: what its handshake said takes effect.
    Confirmed {
        /// The other side.
        peer: PublicKey,
        /// The set.
        set: SetId,
        /// The set under which the peer's packets are sealed from now on; mostly the same.
        sealing: SetId,
        /// Where data goes from now on.
        endpoint: SocketAddr,
        /// What the peer holds, by its own word.
        claim: Claim,
        /// When the peer's process was started anew, this differs.
        instance: [u8; 8],
    },
    /// Neither seal nor open under a set any more; wipe its keys.
    End {
        /// The peer it was shared with.
        peer: PublicKey,
        /// The set.
        set: SetId,
        /// The set to seal under from now on, if there is one.
        sealing: Option<SetId>,
    },
    /// The packets that wait for a peer may go, sealed under its set.
    Release {
        /// The peer.
        peer: PublicKey,
        /// How many wait.
        packets: usize,
    },
    /// The packets that wait for a peer are dropped: it did not answer.
    GaveUp {
        /// The peer.
        peer: PublicKey,
        /// How many waited.
        packets: usize,
    },
    /// Seal one dummy.
    Dummy {
        /// The peer.
        peer: PublicKey,
        /// The set to seal it under.
        set: SetId,
    },
}

/// Where a packet without SA goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It waits; so many of the peer's oldest are dropped for it.
    Held {
        /// Dropped, oldest first.
        dropped: usize,
    },
    /// There is an SA by now.
    Go,
    /// No such peer, nowhere to try it, or no room.
    Refused,
}

/// Why a message changed nothing, or almost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Another version or type.
    Header,
    /// Another length than its type has.
    Length,
    /// mac1 is not for this node's key.
    Mac1,
    /// Under load without a right cookie: one was sent.
    Cookie,
    /// Under load, more than its address may.
    Rate,
    /// It does not open: another network, PSK or key, or changed on the way.
    Noise,
    /// It opens, and says what cannot be.
    Payload,
    /// Nobody trusts this key.
    UnknownIdentity,
    /// No PSK that both have.
    Psk,
    /// No cipher that both take.
    Cipher,
    /// A confirmed handshake was made later. A new one was begun from here, within the rate.
    Old,
    /// An initiation that was answered already, once more.
    Replayed,
    /// The peer was answered a moment ago, by a newer initiation.
    TooSoon,
    /// An answer to what nobody asked.
    UnknownIndex,
}
