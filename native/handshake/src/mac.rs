//! What is checked before any Diffie-Hellman: mac1 always, a cookie under load.
//!
//! Source: WireGuard whitepaper §5.4.4 (mac1); RFC 7296 §2.6 (cookies).

use std::net::{IpAddr, SocketAddr};

use crate::Random;
use crate::kdf::{MacKey, is_equal, sha256};
use crate::key::PublicKey;
use crate::message::Mac;

/// How long a secret makes cookies. It opens those it made as long again.
pub const SECRET_NS: u64 = 120_000_000_000;

/// Returns the key of mac1 for messages to the holder of a public key.
pub fn mac1_key(receiver: &PublicKey) -> MacKey {
    MacKey::new(&sha256(&[b"tunneld/1 mac1", &receiver.0]))
}

/// The cookies of this node.
#[derive(Debug, Default)]
pub struct Cookies {
    /// The secret in use and the one before it, with when they were made.
    secrets: [Option<(u64, MacKey)>; 2],
}

impl Cookies {
    /// Returns the cookie of a source.
    pub fn cookie(&mut self, source: SocketAddr, now_ns: u64, random: &mut dyn Random) -> Mac {
        let [current, former] = &mut self.secrets;
        let made = current.as_ref().filter(|(made_ns, _)| now_ns < made_ns + SECRET_NS);
        if let Some((_, secret)) = made {
            return of(secret, source);
        }
        let secret = MacKey::new(&crate::random::<32>(random));
        let cookie = of(&secret, source);
        *former = current.replace((now_ns, secret));
        cookie
    }

    /// Returns whether a cookie is right for a source: made with a secret not yet forgotten.
    pub fn is_right(&self, cookie: &Mac, source: SocketAddr, now_ns: u64) -> bool {
        let live = self.secrets.iter().flatten();
        live.filter(|(made_ns, _)| now_ns < made_ns + 2 * SECRET_NS)
            .any(|(_, secret)| is_equal(&of(secret, source), cookie))
    }
}

fn of(secret: &MacKey, source: SocketAddr) -> Mac {
    let port = source.port().to_be_bytes();
    match source.ip().to_canonical() {
        IpAddr::V4(address) => secret.of(&[&address.octets(), &port]),
        IpAddr::V6(address) => secret.of(&[&address.octets(), &port]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Seeded;

    const SECOND: u64 = 1_000_000_000;

    fn source(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_cookie_is_that_sources_alone_and_ends_with_its_secret() {
        let (mut cookies, mut random) = (Cookies::default(), Seeded::new(1));
        let here = source("192.0.2.1:8286");
        let cookie = cookies.cookie(here, 0, &mut random);
        assert!(cookies.is_right(&cookie, here, 0));
        for other in ["192.0.2.1:8287", "192.0.2.2:8286", "[2001:db8::1]:8286"] {
            assert!(!cookies.is_right(&cookie, source(other), 0), "{other}");
        }
        assert_eq!(cookies.cookie(here, 119 * SECOND, &mut random), cookie);
        assert_ne!(cookies.cookie(here, 120 * SECOND, &mut random), cookie);
        assert!(cookies.is_right(&cookie, here, 239 * SECOND));
        assert!(!cookies.is_right(&cookie, here, 240 * SECOND));
        assert!(!Cookies::default().is_right(&[0; 16], here, 0));
    }

    /// By Python: `hmac(sha256(b"tunneld/1 mac1" + bytes(range(32))), b"abc")[:16]`.
    #[test]
    fn mac1_is_that_of_another_implementation() {
        let key = PublicKey(std::array::from_fn(|place| place as u8));
        assert_eq!(mac1_key(&key).of(&[b"a", b"bc"]), MAC1);
    }

    const MAC1: Mac = [
        0x5c, 0x1a, 0x53, 0x93, 0x91, 0x4f, 0x8f, 0x58, 0xa9, 0x98, 0x14, 0x8a, 0x5f, 0x41, 0xae,
        0x7d,
    ];
}
