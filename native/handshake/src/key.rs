//! Identities: X25519 keys, written in base64 as WireGuard's are.
//!
//! Source: RFC 7748; RFC 4648 §4.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement;
use zeroize::Zeroizing;

/// Bytes of a key, private or public.
pub const LEN: usize = 32;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Why a text or bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// Not 44 characters of base64 that stand for 32 bytes.
    Text,
    /// The bytes make no key of X25519.
    Bytes,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "expected a key in base64: 44 characters, the last one '='",
            Self::Bytes => "expected 32 bytes of an X25519 key",
        })
    }
}

impl std::error::Error for KeyError {}

/// A public key: who somebody is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; LEN]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.chunks(3) {
            let mut word = [0; 4];
            word[1..=chunk.len()].copy_from_slice(chunk);
            let bits = u32::from_be_bytes(word);
            for place in 0..4 {
                let index = (bits >> (18 - 6 * place)) & 63;
                let is_padding = place > chunk.len();
                let symbol = if is_padding { '=' } else { ALPHABET[index as usize].into() };
                write!(f, "{symbol}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn decode(text: &str) -> Option<Zeroizing<[u8; LEN]>> {
    let symbols: &[u8; 43] = text.strip_suffix('=')?.as_bytes().try_into().ok()?;
    let mut out = Zeroizing::new([0; LEN]);
    let (mut bits, mut held, mut place) = (0u32, 0, 0);
    for symbol in symbols {
        let value = ALPHABET.iter().position(|known| known == symbol)?;
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out[place] = (bits >> held) as u8;
            place += 1;
            bits &= (1 << held) - 1;
        }
    }
    // 43 symbols hold two bits more than 32 bytes: they must be zero, so that a key has one text.
    (bits == 0).then_some(out)
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes)).ok_or(KeyError::Text)
    }
}

/// A private key with its public one. Wiped when dropped; its Debug shows the public key alone.
#[derive(Clone)]
pub struct Identity {
    private: Zeroizing<[u8; LEN]>,
    public: PublicKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public)
    }
}

impl Identity {
    /// Takes 32 random bytes, or those of a private key.
    ///
    /// # Errors
    ///
    /// The library refuses them.
    pub fn new(private: Zeroizing<[u8; LEN]>) -> Result<Self, KeyError> {
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, &*private);
        let public = key.map_err(|_| KeyError::Bytes)?.compute_public_key();
        let public = public.map_err(|_| KeyError::Bytes)?;
        let public = public.as_ref().try_into().map_err(|_| KeyError::Bytes)?;
        Ok(Self { private, public: PublicKey(public) })
    }

    /// Takes a private key as the state directory keeps it.
    ///
    /// # Errors
    ///
    /// The text is no key. The error does not repeat it.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Self::new(decode(text).ok_or(KeyError::Text)?)
    }

    /// A pair that another group than X25519 made.
    #[cfg(test)]
    pub(crate) fn of_pair(private: [u8; LEN], public: [u8; LEN]) -> Self {
        Self { private: Zeroizing::new(private), public: PublicKey(public) }
    }

    /// Returns the public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn private(&self) -> &[u8; LEN] {
        &self.private
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 §6.1, Alice; the base64 is coreutils'.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn a_key_is_read_and_written_as_wireguard_does() {
        let identity = Identity::from_base64(PRIVATE).unwrap();
        assert_eq!(identity.public().to_string(), PUBLIC);
        assert_eq!(PUBLIC.parse(), Ok(identity.public()));
    }

    #[test]
    fn a_text_that_is_no_key_is_refused() {
        let long = format!("{PUBLIC}A");
        let other_last = PUBLIC.replace("mo=", "mp=");
        for text in ["", "=", &PUBLIC[..43], &long, &other_last, &PUBLIC.replace('/', "-")] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Text), "{text}");
        }
    }

    #[test]
    fn no_private_key_shows_in_debug_output() {
        let shown = format!("{:?}", Identity::from_base64(PRIVATE).unwrap());
        assert_eq!(shown, format!("Identity({PUBLIC})"));
    }
}
