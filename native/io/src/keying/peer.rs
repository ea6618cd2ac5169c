//! What is known of a peer beside the state machine: its keys, its packets, how it stands.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use tunneld_core::sad::{Claim, OpeningSet, Protected, SealingSet};
use tunneld_esp::cipher::Cipher;
use tunneld_handshake::key::PublicKey;
use tunneld_handshake::node::SetId;

use crate::errands::Packet;

/// A peer that is trusted.
pub(super) struct Peer {
    pub(super) protected: Arc<Protected>,
    /// Packets that wait for keys, oldest first, with the worker each came by.
    pub(super) held: VecDeque<(usize, Packet)>,
    /// What its packets are sealed by now, and where they go.
    pub(super) sealing: Option<(SetId, SocketAddr)>,
    pub(super) proved: Option<Proved>,
    /// What went wrong last, until something goes well.
    pub(super) last_error: Option<String>,
}

/// What a peer said in its last confirmed handshake.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proved {
    pub(super) at_ns: u64,
    pub(super) claim: Claim,
    pub(super) instance: [u8; 8],
}

impl Peer {
    pub(super) fn new(protected: Arc<Protected>) -> Self {
        Self { protected, held: VecDeque::new(), sealing: None, proved: None, last_error: None }
    }
}

/// Both directions of one handshake.
pub(super) struct Pair {
    pub(super) peer: PublicKey,
    pub(super) opening: Arc<OpeningSet>,
    pub(super) sealing: Arc<SealingSet>,
    pub(super) cipher: Cipher,
    pub(super) agreed_ns: u64,
}
