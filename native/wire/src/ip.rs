//! IP version: the first thing to know about a packet from a TUN device or a raw tunnel.
//!
//! Source: RFC 791 §3.1, RFC 8200 §3.

/// What the first four bits of a packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Something else; not IP.
    Other(u8),
}

impl Version {
    /// Returns the version of `packet`, or `None` if there is not a single byte.
    pub const fn of(packet: &[u8]) -> Option<Self> {
        match packet.first() {
            None => None,
            Some(&first) => Some(match first >> 4 {
                4 => Self::V4,
                6 => Self::V6,
                other => Self::Other(other),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_upper_half_of_the_first_byte() {
        assert_eq!(Version::of(&[0x45]), Some(Version::V4));
        assert_eq!(Version::of(&[0x60, 0]), Some(Version::V6));
        assert_eq!(Version::of(&[0x54]), Some(Version::Other(5)));
        assert_eq!(Version::of(&[]), None);
    }
}
