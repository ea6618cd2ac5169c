//! Prefix: an address block of either family in CIDR notation, without host bits.
//!
//! Source: RFC 4632 §3.1, RFC 4291 §2.3.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address block. If a value exists, its host bits are zero. IPv4 sorts before IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Returns the block of `length` leading bits of `address`.
    ///
    /// # Errors
    ///
    /// [`Error`] where `length` is above 32 (IPv6: 128) or a host bit is set.
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Result<Self, Error> {
        let prefix = Self { address: address.into(), length };
        if length > prefix.max_length() {
            return Err(Error::Length);
        }
        if prefix.bits() & prefix.host_mask() != 0 {
            return Err(Error::HostBits);
        }
        Ok(prefix)
    }

    /// Returns the first address of the block.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Returns the number of leading bits that are fixed.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Returns whether `address` lies in the block.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && (bits(address) ^ self.bits()) & !self.host_mask() == 0
    }

    const fn max_length(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    const fn bits(self) -> u128 {
        bits(self.address)
    }

    const fn host_mask(self) -> u128 {
        match 1u128.checked_shl((self.max_length() - self.length) as u32) {
            Some(size) => size - 1,
            None => u128::MAX,
        }
    }
}

/// Returns the bits of an address, those of an IPv4 address at the lower end.
const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (address, length) = text.split_once('/').ok_or(Error::Form)?;
        let address: IpAddr = address.parse().map_err(|_| Error::Form)?;
        // Digits only: u8's own parser also takes a plus sign.
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::Form);
        }
        Self::new(address, length.parse().map_err(|_| Error::Length)?)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Why a text or a pair is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Neither `a.b.c.d/len` nor `a:b::/len`.
    Form,
    /// The length is above 32, or 128 for IPv6.
    Length,
    /// Bits behind the length are set.
    HostBits,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "neither of the form a.b.c.d/len nor a:b::/len",
            Self::Length => "its length is above 32, or 128 for IPv6",
            Self::HostBits => "it has host bits",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_and_written_back() {
        for text in [
            "0.0.0.0/0",
            "10.5.26.0/24",
            "255.255.255.255/32",
            "128.0.0.0/1",
            "::/0",
            "fd00:5:26::/64",
            "8000::/1",
            "ffff::1/128",
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_fault_has_its_own_error() {
        for text in ["", "10.5.26.0", "10.5.26/24", "10.5.26.0/", "10.5.26.0/+8", "fd00::%1/64"] {
            assert_eq!(text.parse::<Prefix>(), Err(Error::Form), "{text}");
        }
        for text in ["10.5.26.0/33", "10.5.26.0/256", "fd00::/129"] {
            assert_eq!(text.parse::<Prefix>(), Err(Error::Length), "{text}");
        }
        for text in ["10.5.26.1/24", "fd00::1/64", "fd00:0:0:1::/63", "8000::/0"] {
            assert_eq!(text.parse::<Prefix>(), Err(Error::HostBits), "{text}");
        }
    }

    #[test]
    fn a_block_contains_its_first_and_last_address_and_no_other() {
        let contains = |prefix: &str, address: &str| {
            prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.5.26.0/23", "10.5.26.0"));
        assert!(contains("10.5.26.0/23", "10.5.27.255"));
        assert!(!contains("10.5.26.0/23", "10.5.28.0"));
        assert!(!contains("10.5.26.0/23", "10.5.25.255"));
        assert!(contains("fd00:5:26::/63", "fd00:5:26::"));
        assert!(contains("fd00:5:26::/63", "fd00:5:26:1:ffff:ffff:ffff:ffff"));
        assert!(!contains("fd00:5:26::/63", "fd00:5:26:2::"));
        assert!(!contains("fd00:5:26::/63", "fd00:5:25:ffff:ffff:ffff:ffff:ffff"));
    }

    #[test]
    fn a_block_of_one_family_contains_none_of_the_other() {
        let contains = |prefix: &str, address: &str| {
            prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap())
        };
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(!contains("::/0", "0.0.0.1"));
    }
}
