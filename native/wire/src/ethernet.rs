//! Ethernet header: parse and emit, as it stands inside a tunnel.
//!
//! Source: IEEE 802.3 §3, RFC 7042 §2 (addresses as text).

use core::fmt;
use core::str::FromStr;

/// Ethertype of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// Ethertype of a VLAN tag (IEEE 802.1Q).
pub const TYPE_VLAN: u16 = 0x8100;
/// Ethertype of a provider's VLAN tag (IEEE 802.1ad).
pub const TYPE_SERVICE_VLAN: u16 = 0x88a8;
/// Ethertype of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;

/// The address of an Ethernet station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Returns whether this is the address of one station: neither a group's nor all zeros.
    pub const fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl MacAddress {
    /// How one is written, for messages.
    pub const FORM: &str = "an address like 0e:2a:00:00:00:01";
}

impl FromStr for MacAddress {
    type Err = NotAMac;

    /// Reads six octets of two hexadecimal digits each, with colons between them.
    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(NotAMac)?;
            let is_hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16).ok().filter(|_| is_hex).ok_or(NotAMac)?;
        }
        if parts.next().is_some() { Err(NotAMac) } else { Ok(Self(octets)) }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is no address of that form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMac;

/// A parsed Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who it is for.
    pub destination: MacAddress,
    /// Who it is from.
    pub source: MacAddress,
    /// What is in it.
    pub ethertype: u16,
}

impl Header {
    /// Length on the wire, in bytes.
    pub const LEN: usize = 14;

    /// Returns the header that `bytes` hold.
    pub const fn parse(bytes: [u8; Self::LEN]) -> Self {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = bytes;
        Self {
            destination: MacAddress([d0, d1, d2, d3, d4, d5]),
            source: MacAddress([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([t0, t1]),
        }
    }

    /// Returns the header as it goes on the wire.
    pub const fn emit(self) -> [u8; Self::LEN] {
        let [d0, d1, d2, d3, d4, d5] = self.destination.0;
        let [s0, s1, s2, s3, s4, s5] = self.source.0;
        let [t0, t1] = self.ethertype.to_be_bytes();
        [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn parse_inverts_emit() {
        let mut random = Seeded::new(8);
        for _ in 0..1_000 {
            let bytes: [u8; 14] = random.bytes(14).try_into().unwrap();
            assert_eq!(Header::parse(bytes).emit(), bytes);
        }
    }

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        let mac = MacAddress([0x0e, 0x2a, 0, 0xff, 9, 0x10]);
        assert_eq!(mac.to_string(), "0e:2a:00:ff:09:10");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!("0E:2A:00:FF:09:10".parse(), Ok(mac));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "0e:2a:00:ff:09",
            "0e:2a:00:ff:09:10:11",
            "0e-2a-00-ff-09-10",
            "0e:2a:00:ff:09:1",
            "0e:2a:00:ff:09:100",
            "0e:2a:00:ff:09:+1",
            "0e:2a:00:ff:09:\u{e9}",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(NotAMac), "{text}");
        }
    }

    #[test]
    fn groups_and_nobody_are_no_station() {
        assert!(MacAddress([2, 0, 0, 0, 0, 1]).is_unicast());
        for octets in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert!(!MacAddress(octets).is_unicast());
        }
    }
}
