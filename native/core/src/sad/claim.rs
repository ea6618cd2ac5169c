//! What a peer said in its handshake that it holds.

use std::net::IpAddr;

use crate::prefix::Prefix;

/// The subnets of a peer, by its own word: at most one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claim {
    /// The IPv4 subnet.
    pub ipv4: Option<Prefix>,
    /// The IPv6 subnet.
    pub ipv6: Option<Prefix>,
}

impl Claim {
    /// Returns whether `subnet` is one of them: not a part of one, nor one around it.
    #[inline]
    pub fn names(&self, subnet: Prefix) -> bool {
        let own = if subnet.address().is_ipv4() { self.ipv4 } else { self.ipv6 };
        own == Some(subnet)
    }

    /// Returns whether `address` lies in one of them.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        let own = if address.is_ipv4() { self.ipv4 } else { self.ipv6 };
        own.is_some_and(|own| own.contains(address))
    }
}
