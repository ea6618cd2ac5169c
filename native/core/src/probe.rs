//! Probes of a path's size: echo requests to a peer's overlay address, and their answers.
//!
//! Path of a packet: control plane → **`probe`** → `outbound` → the peer's kernel, flannel's host or
//! ours → `inbound` → **`probe`** → control plane. What is sent when, and what an answer means, is
//! decided there.
//!
//! Source: RFC 8899 (probing a path's MTU in the packet layer).

use std::net::IpAddr;

use tunneld_wire::echo::{self, Echo};
use tunneld_wire::ip;

use crate::fib::Settings;

/// What tells our probes from other echoes of this host's: "tn" as identifier, and this in front of
/// the token.
const IDENTIFIER: u16 = u16::from_be_bytes(*b"tn");
const MARK: [u8; 8] = *b"path mtu";

/// The mark and the token.
const DATA_LEN: usize = 16;

/// Answers kept of one batch; further ones are as if lost.
const CAPACITY: usize = 64;

/// A probe of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Overlay address of the peer.
    pub destination: IpAddr,
    /// Length of the whole inner packet, in bytes.
    pub size_bytes: u16,
    /// What the answer is known by; nobody else can guess it.
    pub token: u64,
}

/// An answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// That of the probe.
    pub token: u64,
    /// The number of the socket it was sent by, as the sender counts them.
    pub path: u16,
}

/// Returns the length of the shortest probe, in bytes.
pub const fn min_len(destination: &IpAddr) -> usize {
    echo::min_len(destination.is_ipv4(), DATA_LEN)
}

impl Probe {
    /// Writes the inner packet into `packet`, which has its length; false where it cannot be.
    pub(crate) fn emit(&self, settings: &Settings, path: u16, packet: &mut [u8]) -> bool {
        let source = match self.destination {
            IpAddr::V4(_) => settings.icmp_source.map(IpAddr::from),
            IpAddr::V6(_) => settings.icmp_source_v6.map(IpAddr::from),
        };
        let mut data = [0; DATA_LEN];
        data[..MARK.len()].copy_from_slice(&MARK);
        data[MARK.len()..].copy_from_slice(&self.token.to_be_bytes());
        let echo = Echo { identifier: IDENTIFIER, number: path, data };
        source.is_some_and(|source| echo::emit_request(&echo, source, self.destination, packet))
    }
}

/// The answers of one batch.
#[derive(Debug)]
pub struct Answers(Vec<Answer>);

impl Default for Answers {
    fn default() -> Self {
        Self(Vec::with_capacity(CAPACITY))
    }
}

impl Answers {
    /// Takes a packet that is an answer to a probe of this host; returns false where it is not.
    #[cold]
    pub(crate) fn take<H: ip::Header>(
        &mut self,
        settings: &Settings,
        header: &H,
        packet: &[u8],
    ) -> bool {
        if !settings.is_own_address(header.destination().into()) {
            return false;
        }
        let Some(Echo { identifier: IDENTIFIER, number, data }) =
            echo::parse_reply::<H, DATA_LEN>(header, packet)
        else {
            return false;
        };
        let Some(token) = data.strip_prefix(&MARK).and_then(<[u8]>::first_chunk) else {
            return false;
        };
        if self.0.len() < CAPACITY {
            self.0.push(Answer { token: u64::from_be_bytes(*token), path: number });
        }
        true
    }

    /// Takes out what came.
    pub fn drain(&mut self) -> impl Iterator<Item = Answer> {
        self.0.drain(..)
    }
}
