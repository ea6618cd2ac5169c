//! How this host and its peers stand with keys, as plain values without any secret.

use std::net::SocketAddr;

use tunneld_core::sad::Claim;
use tunneld_esp::cipher::Cipher;
use tunneld_esp::provider::Provider;
use tunneld_handshake::key::PublicKey;

/// How far keys are agreed with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// There are none, and none are asked for.
    Missing,
    /// A handshake is under way, and there are none yet.
    Handshake,
    /// There are some.
    Confirmed,
}

impl KeyState {
    /// Returns its name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "none",
            Self::Handshake => "handshake",
            Self::Confirmed => "confirmed",
        }
    }
}

/// How a peer stands.
#[derive(Debug, Clone)]
pub struct Security {
    /// Who it is.
    pub key: PublicKey,
    /// How far keys are agreed.
    pub state: KeyState,
    /// The cipher its packets are sealed by, if there are keys.
    pub cipher: Option<Cipher>,
    /// Age of those keys, in nanoseconds.
    pub age_ns: Option<u64>,
    /// Where it is tried, and where its packets go.
    pub endpoint: Option<SocketAddr>,
    /// How long ago its last handshake was confirmed, in nanoseconds.
    pub last_handshake_ns: Option<u64>,
    /// What it said there that it holds.
    pub claim: Claim,
    /// The instance it named there.
    pub instance: Option<[u8; 8]>,
    /// SA sets with it, those that only open among them.
    pub sets: usize,
    /// Packets that wait for keys.
    pub waiting_packets: usize,
    /// What went wrong last, until something goes well.
    pub last_error: Option<String>,
}

/// What this host is.
#[derive(Debug, Clone, Copy)]
pub struct OwnSecurity {
    /// Who it is.
    pub public_key: PublicKey,
    /// The cipher it takes, or the one it prefers.
    pub cipher: Cipher,
    /// Who seals and opens.
    pub provider: Provider,
    /// The UDP port of encryption.
    pub port: u16,
}
