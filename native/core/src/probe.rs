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

/// What tells our probes from most other echoes of this host's: "tn".
const IDENTIFIER: u16 = u16::from_be_bytes(*b"tn");

/// What tells our probes from all other echoes, in front of the token. Drawn for each data path: a
/// container may write whatever it likes, and what bears the mark costs the control plane time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark(pub [u8; 8]);

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
    pub(crate) fn emit(
        &self,
        Mark(mark): Mark,
        settings: &Settings,
        path: u16,
        packet: &mut [u8],
    ) -> bool {
        let source = match self.destination {
            IpAddr::V4(_) => settings.icmp_source.map(IpAddr::from),
            IpAddr::V6(_) => settings.icmp_source_v6.map(IpAddr::from),
        };
        let mut data = [0; DATA_LEN];
        data[..mark.len()].copy_from_slice(&mark);
        data[mark.len()..].copy_from_slice(&self.token.to_be_bytes());
        let echo = Echo { identifier: IDENTIFIER, number: path, data };
        source.is_some_and(|source| echo::emit_request(&echo, source, self.destination, packet))
    }
}

/// The answers of one batch.
#[derive(Debug)]
pub struct Answers {
    mark: Mark,
    answers: Vec<Answer>,
}

impl Default for Answers {
    fn default() -> Self {
        Self::to(Mark::default())
    }
}

impl Answers {
    /// Returns room for answers to probes with that mark.
    pub(crate) fn to(mark: Mark) -> Self {
        Self { mark, answers: Vec::with_capacity(CAPACITY) }
    }

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
        let Some(token) = data.strip_prefix(&self.mark.0).and_then(<[u8]>::first_chunk) else {
            return false;
        };
        if self.answers.len() < CAPACITY {
            self.answers.push(Answer { token: u64::from_be_bytes(*token), path: number });
        }
        true
    }

    /// Takes out what came.
    pub fn drain(&mut self) -> impl Iterator<Item = Answer> {
        self.answers.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tunneld_wire::ipv4;

    use super::*;
    use crate::fib::SourceCheck;

    const SETTINGS: Settings = Settings {
        source_check: SourceCheck::Strict,
        device_mtu_bytes: 1_472,
        icmp_source: Some(Ipv4Addr::new(10, 5, 1, 0)),
        icmp_source_v6: None,
        vtep: None,
    };

    /// What the peer's kernel makes of a probe.
    fn answered(mark: Mark) -> Vec<u8> {
        let probe = Probe { destination: [10, 5, 2, 0].into(), size_bytes: 1_400, token: 7 };
        let mut packet = vec![0; 1_400];
        assert!(probe.emit(mark, &SETTINGS, 3, &mut packet));
        let (source, destination) = packet[12..20].split_at_mut(4);
        source.swap_with_slice(destination);
        packet[20] = 0;
        packet
    }

    #[test]
    fn an_echo_that_does_not_know_the_mark_goes_on_to_whoever_waits_for_it() {
        let taken = |mark, packet: &[u8]| {
            let mut answers = Answers::to(mark);
            let header = ipv4::Header::parse(packet).unwrap();
            let is_taken = answers.take(&SETTINGS, &header, packet);
            (is_taken, answers.drain().collect::<Vec<_>>())
        };
        let mark = Mark(*b"our mark");
        assert_eq!(taken(mark, &answered(mark)), (true, vec![Answer { token: 7, path: 3 }]));
        for other in [Mark::default(), Mark(*b"path mtu"), Mark(*b"our marl")] {
            assert_eq!(taken(mark, &answered(other)), (false, Vec::new()));
        }
    }
}
