//! IPv4 prefix: an address block in CIDR notation, without host bits.
//!
//! Source: RFC 4632 §3.1.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An address block. If a value exists, its host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: u32,
    length: u8,
}

impl Prefix {
    /// Length of a prefix that holds one address.
    pub const MAX_LENGTH: u8 = 32;

    /// Returns the block of `length` leading bits of `address`.
    ///
    /// # Errors
    ///
    /// [`Error`] where `length` is above 32 or a host bit is set.
    pub const fn new(address: Ipv4Addr, length: u8) -> Result<Self, Error> {
        if length > Self::MAX_LENGTH {
            return Err(Error::Length);
        }
        let prefix = Self { address: address.to_bits(), length };
        if prefix.address & prefix.host_mask() != 0 {
            return Err(Error::HostBits);
        }
        Ok(prefix)
    }

    /// Returns the first address of the block.
    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address)
    }

    /// Returns the number of leading bits that are fixed.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Returns whether `address` lies in the block.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address) & !self.host_mask() == 0
    }

    const fn host_mask(self) -> u32 {
        match u32::MAX.checked_shr(self.length as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (address, length) = text.split_once('/').ok_or(Error::Form)?;
        let address = address.parse().map_err(|_| Error::Form)?;
        // Digits only: u8's own parser also takes a plus sign.
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::Form);
        }
        Self::new(address, length.parse().map_err(|_| Error::Length)?)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

/// Why a text or a pair is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Not `a.b.c.d/len`.
    Form,
    /// The length is above 32.
    Length,
    /// Bits behind the length are set.
    HostBits,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "not of the form a.b.c.d/len",
            Self::Length => "its length is above 32",
            Self::HostBits => "it has host bits",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_and_written_back() {
        for text in ["0.0.0.0/0", "10.5.26.0/24", "255.255.255.255/32", "128.0.0.0/1"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_fault_has_its_own_error() {
        for text in ["", "10.5.26.0", "10.5.26/24", "10.5.26.0/", "10.5.26.0/+8", "::/0"] {
            assert_eq!(text.parse::<Prefix>(), Err(Error::Form), "{text}");
        }
        for text in ["10.5.26.0/33", "10.5.26.0/256"] {
            assert_eq!(text.parse::<Prefix>(), Err(Error::Length), "{text}");
        }
        assert_eq!("10.5.26.1/24".parse::<Prefix>(), Err(Error::HostBits));
    }

    #[test]
    fn a_block_contains_its_first_and_last_address_and_no_other() {
        let prefix: Prefix = "10.5.26.0/23".parse().unwrap();
        assert!(prefix.contains(Ipv4Addr::new(10, 5, 26, 0)));
        assert!(prefix.contains(Ipv4Addr::new(10, 5, 27, 255)));
        assert!(!prefix.contains(Ipv4Addr::new(10, 5, 28, 0)));
        assert!(!prefix.contains(Ipv4Addr::new(10, 5, 25, 255)));
    }
}
