//! Keys: the secret of a direction, and what is derived of it for each SA.
//!
//! A key is in memory as long as its owner is: every form of it is wiped when it is dropped, and
//! none is ever printed.
//!
//! Source: RFC 5869 §2.3 (HKDF-Expand), RFC 4106 §8.1 and RFC 7634 §2 (the salt stands behind the
//! key).

use core::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::{Zeroize, Zeroizing};

use crate::aead::{Aead, scrub_stack};
use crate::cipher::{Cipher, MAX_MATERIAL, SALT};
use crate::provider::Provider;
use crate::spi::Spi;

/// What all keys of one direction are derived of, by its purpose.
const LABEL: &[u8] = b"tunneld/1 esp";

/// A key of a length that its cipher does not have, or the provider has no memory for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRefused {
    /// Who refused it.
    pub provider: Provider,
    /// For what cipher.
    pub cipher: Cipher,
}

impl fmt::Display for KeyRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, cipher } = self;
        let len = cipher.material_len();
        write!(f, "{provider} refuses a key for {cipher}: expected {len} bytes, and memory for it")
    }
}

impl core::error::Error for KeyRefused {}

/// The secret of one direction, 32 bytes, as a handshake agrees it.
pub struct Secret([u8; Self::LEN]);

impl Secret {
    /// Length, in bytes.
    pub const LEN: usize = 32;

    /// Returns a copy of `bytes`; the caller wipes its own.
    pub const fn new(bytes: &[u8; Self::LEN]) -> Self {
        Self(*bytes)
    }

    /// Derives the key of the SA with index `spi`.
    ///
    /// # Errors
    ///
    /// [`KeyRefused`], if the provider could not set it up.
    pub fn key(&self, provider: Provider, cipher: Cipher, spi: Spi) -> Result<Key, KeyRefused> {
        let mut material = Zeroizing::new([0; MAX_MATERIAL]);
        let material = &mut material[..cipher.material_len()];
        let refused = KeyRefused { provider, cipher };
        self.expand(&[LABEL, &[cipher.number()], &spi.number().to_be_bytes()], material)
            .ok_or(refused)?;
        Key::new(provider, cipher, material)
    }

    /// Fills `out` with HKDF-Expand-SHA-256 of this secret.
    pub(crate) fn expand(&self, info: &[&[u8]], out: &mut [u8]) -> Option<()> {
        let prk = Prk::new_less_safe(HKDF_SHA256, &self.0);
        let filled = prk.expand(info, Len(out.len())).and_then(|okm| okm.fill(out));
        drop(prk);
        scrub_stack();
        filled.ok()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// How much is to be derived, in bytes.
struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// The key and the salt of one SA, set up.
pub struct Key {
    pub(crate) aead: Aead,
    pub(crate) salt: [u8; SALT],
    provider: Provider,
    cipher: Cipher,
}

impl Key {
    /// Sets up `material`: a key and, behind it, a salt of 4 bytes.
    ///
    /// # Errors
    ///
    /// [`KeyRefused`], if it is not of [`Cipher::material_len`] bytes.
    pub fn new(provider: Provider, cipher: Cipher, material: &[u8]) -> Result<Self, KeyRefused> {
        let refused = KeyRefused { provider, cipher };
        let (key, salt) = material.split_last_chunk().ok_or(refused)?;
        let aead = Aead::new(provider, cipher, key).or(Err(refused))?;
        Ok(Self { aead, salt: *salt, provider, cipher })
    }

    /// Returns what seals and opens with it.
    pub const fn provider(&self) -> Provider {
        self.provider
    }

    /// Returns what it is a key of.
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Returns the nonce with this IV.
    pub(crate) fn nonce(&self, iv: [u8; 8]) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..SALT].copy_from_slice(&self.salt);
        nonce[SALT..].copy_from_slice(&iv);
        nonce
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} by {})", self.cipher, self.provider)
    }
}

/// Returns the additional data of a packet: what its reader must know to open it.
pub(crate) fn additional_data(spi: Spi, number: u64) -> [u8; 12] {
    let mut data = [0; 12];
    data[..4].copy_from_slice(&spi.number().to_be_bytes());
    data[4..].copy_from_slice(&number.to_be_bytes());
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::hex;

    const DERIVED: &[(Cipher, &str)] = &[
        (
            Cipher::Aes256Gcm,
            "8021a90b1301ea071b2b5065946dc66e9119cf58b83ac963500eb4d670bb964333c96ca0",
        ),
        (Cipher::Aes128Gcm, "53753d868881f71ea403b8ebb0695e5edb47825a"),
        (
            Cipher::ChaCha20Poly1305,
            "44cc1011fb6486c225258ae02a4e34d3a3275ad78ce2c9d87953997b14a8be0114ce6b8c",
        ),
    ];

    #[test]
    fn expansion_is_that_of_rfc_5869() {
        // Appendix A.1: the pseudorandom key of the first step is the secret of the second.
        let prk = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let okm =
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        let secret = Secret::new(prk.as_slice().try_into().unwrap());
        let mut out = [0; 42];
        secret.expand(&[&hex("f0f1f2f3f4f5f6f7f8f9")], &mut out).unwrap();
        assert_eq!(out[..], hex(okm));
        let mut parts = [0; 42];
        secret.expand(&[&hex("f0f1"), &[], &hex("f2f3f4f5f6f7f8f9")], &mut parts).unwrap();
        assert_eq!(parts, out, "what is expanded is one string");
    }

    #[test]
    fn the_key_of_an_sa_is_the_one_openssl_derives() {
        // printf of the label, 01, 02 or 03, and c0123456, as hexinfo of
        // `openssl kdf -keylen 36 -kdfopt digest:SHA256 -kdfopt mode:EXPAND_ONLY -kdfopt hexkey:…`.
        let secret = Secret::new(&core::array::from_fn(|place| place as u8));
        for (cipher, material) in DERIVED.iter().copied() {
            let spi = Spi::new(0xc012_3456).unwrap();
            for provider in Provider::ALL.iter().copied() {
                let derived = secret.key(provider, cipher, spi).unwrap();
                let given = Key::new(provider, cipher, &hex(material)).unwrap();
                let sealed = |key: &Key| {
                    let mut text = [0; 40];
                    key.aead.seal(key.nonce([1; 8]), &[], &mut text).map(|icv| (text, icv))
                };
                assert_eq!(sealed(&derived), sealed(&given), "{cipher}");
                assert_eq!(derived.salt, given.salt);
            }
        }
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        let secret = Secret::new(&[0xab; 32]);
        assert_eq!(format!("{secret:?}"), "Secret");
        let spi = Spi::new(0xc000_0000).unwrap();
        let key = secret.key(Provider::AwsLc, Cipher::Aes128Gcm, spi).unwrap();
        assert_eq!(format!("{key:?}"), "Key(aes-128-gcm by aws-lc-rs)");
    }

    #[test]
    fn material_of_another_length_is_refused_with_what_was_expected() {
        for provider in Provider::ALL.iter().copied() {
            for cipher in Cipher::ALL.iter().copied() {
                for len in (0..50).filter(|len| *len != cipher.material_len()) {
                    let refused = Key::new(provider, cipher, &vec![1; len]).unwrap_err();
                    assert_eq!(refused, KeyRefused { provider, cipher });
                }
            }
        }
        let said = Key::new(Provider::Ring, Cipher::Aes128Gcm, &[]).unwrap_err().to_string();
        assert!(said.contains("expected 20 bytes"), "{said}");
    }
}
