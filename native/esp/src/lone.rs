//! An AEAD alone, over buffers of one size: what of a packet's cost is the cipher's.
//!
//! Nothing is sealed for anybody: key and nonces are of this measurement only.

use core::fmt;

use crate::aead::{Aead, NONCE};
use crate::cipher::Cipher;
use crate::packet::ICV;
use crate::provider::Provider;

/// As many bytes as stay in the caches nearest to the processor.
const WORKING_SET: usize = 64 << 10;
/// Length of the additional data of ESP with extended sequence numbers, in bytes.
const AAD: usize = 12;

/// One key of one cipher in one provider, and the texts it is to seal and open.
pub struct Lone {
    aead: Aead,
    texts: Vec<Vec<u8>>,
    passes: u64,
}

/// It cannot be measured: a provider that refuses a key or a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unusable;

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the provider refuses its own key or text")
    }
}

impl Lone {
    /// Sets up a key, and texts of `size` bytes without the ICV.
    ///
    /// # Errors
    ///
    /// The provider refuses.
    pub fn new(provider: Provider, cipher: Cipher, size: usize) -> Result<Self, Unusable> {
        let key = vec![0x5a; cipher.key_len()];
        let aead = Aead::new(provider, cipher, &key).or(Err(Unusable))?;
        let count = (WORKING_SET / (size + ICV)).max(1);
        Ok(Self { aead, texts: vec![vec![0x33; size + ICV]; count], passes: 0 })
    }

    /// Returns how many texts a call seals or opens.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Seals every text, each with a nonce of its own.
    ///
    /// # Errors
    ///
    /// The provider refuses.
    pub fn seal(&mut self) -> Result<(), Unusable> {
        self.passes += 1;
        for (place, text) in self.texts.iter_mut().enumerate() {
            let size = text.len() - ICV;
            let (plain, end) = text.split_at_mut(size);
            let nonce = nonce(self.passes, place);
            let icv = self.aead.seal(nonce, &[0; AAD], plain).or(Err(Unusable))?;
            end.copy_from_slice(&icv);
        }
        Ok(())
    }

    /// Opens every text; they must be sealed.
    ///
    /// # Errors
    ///
    /// They are not.
    pub fn open(&mut self) -> Result<(), Unusable> {
        for (place, text) in self.texts.iter_mut().enumerate() {
            let nonce = nonce(self.passes, place);
            self.aead.open(nonce, &[0; AAD], text).or(Err(Unusable))?;
        }
        Ok(())
    }
}

fn nonce(pass: u64, place: usize) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    nonce[..4].copy_from_slice(&(place as u32).to_be_bytes());
    nonce[4..].copy_from_slice(&pass.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_once_with_every_cipher_and_size() {
        for provider in Provider::ALL.iter().copied() {
            for cipher in Cipher::ALL.iter().copied() {
                for size in [1, 64, 1_438, 16_384, WORKING_SET] {
                    let mut lone = Lone::new(provider, cipher, size).unwrap();
                    assert!(lone.texts() >= 1);
                    assert_eq!(lone.open(), Err(Unusable), "nothing is sealed");
                    let mut lone = Lone::new(provider, cipher, size).unwrap();
                    for _ in 0..2 {
                        lone.seal().unwrap();
                        lone.open().unwrap();
                        assert!(lone.texts.iter().all(|text| text[0] == 0x33));
                    }
                }
            }
        }
    }
}
