//! Whom to trust, as the control plane says it.

use std::net::IpAddr;

use tunneld_handshake::key::PublicKey;
use tunneld_handshake::node::Record;

/// What a change says of whom to trust.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    /// Whom to trust no longer. Who is put in the same change is trusted afterwards.
    pub drop: Vec<PublicKey>,
    /// Whom to trust, with what its record says now.
    pub put: Vec<(PublicKey, Trusted)>,
}

/// What the control plane says of whom it trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    /// Its underlay address, if it is known.
    pub address: Option<IpAddr>,
    /// Its port of encryption.
    pub port: u16,
    /// Which start of it published that.
    pub instance: Option<[u8; 8]>,
}

impl Trusted {
    /// Returns what a node goes by.
    pub(crate) fn record(&self) -> Record {
        let endpoint = self.address.map(|address| (address.to_canonical(), self.port).into());
        Record { endpoint, instance: self.instance }
    }
}
