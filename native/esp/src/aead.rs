//! One key of one cipher in one provider: seals and opens in place.
//!
//! Each call is told the nonce and the additional data; which those are is the business of `seal`
//! and `open`.

use core::hint::black_box;

use aws_lc_rs::aead as aws;
use ring::aead as ring;
use zeroize::Zeroize;

use crate::cipher::Cipher;
use crate::packet::ICV;
use crate::provider::Provider;

/// Length of a nonce, in bytes.
pub(crate) const NONCE: usize = 12;
/// More words of 8 bytes than the calls that set up a key leave on the stack.
const STACK: usize = 1_024;

/// The provider refused; it does not say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// A key, set up. Its memory is wiped when it goes.
pub(crate) enum Aead {
    /// Its memory is the C library's, which wipes what it frees.
    AwsLc(aws::LessSafeKey),
    /// Boxed, so that the key does not leave copies where it moves.
    Ring(Box<ring::LessSafeKey>),
}

impl Aead {
    /// Sets up a key of [`Cipher::key_len`] bytes.
    pub(crate) fn new(provider: Provider, cipher: Cipher, key: &[u8]) -> Result<Self, Refused> {
        let made = set_up(provider, cipher, key);
        scrub_stack();
        made
    }

    /// Encrypts `text` and returns its ICV.
    #[inline]
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; ICV], Refused> {
        match self {
            Self::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, aws::Aad::from(aad), text);
                tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(Refused)
            }
            Self::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, ring::Aad::from(aad), text);
                tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(Refused)
            }
        }
    }

    /// Decrypts `text`, whose last bytes are its ICV. After a refusal it is of no use any more.
    #[inline]
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<(), Refused> {
        match self {
            Self::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, aws::Aad::from(aad), text).map(drop).or(Err(Refused))
            }
            Self::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, ring::Aad::from(aad), text).map(drop).or(Err(Refused))
            }
        }
    }

    /// Puts a key of zeros in the place of one that its library would leave in memory.
    fn wipe(&mut self) {
        if let Self::Ring(key) = self {
            if let Ok(zeros) = ring::UnboundKey::new(key.algorithm(), &[0; 32][..key_len(key)]) {
                **key = ring::LessSafeKey::new(zeros);
                // What is written to memory that nobody reads again must be written all the same.
                black_box(key);
            }
        }
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        self.wipe();
    }
}

fn key_len(key: &ring::LessSafeKey) -> usize {
    key.algorithm().key_len()
}

#[inline(never)]
fn set_up(provider: Provider, cipher: Cipher, key: &[u8]) -> Result<Aead, Refused> {
    Ok(match provider {
        Provider::AwsLc => {
            let algorithm = match cipher {
                Cipher::Aes256Gcm => &aws::AES_256_GCM,
                Cipher::Aes128Gcm => &aws::AES_128_GCM,
                Cipher::ChaCha20Poly1305 => &aws::CHACHA20_POLY1305,
            };
            let key = aws::UnboundKey::new(algorithm, key).or(Err(Refused))?;
            Aead::AwsLc(aws::LessSafeKey::new(key))
        }
        Provider::Ring => {
            let algorithm = match cipher {
                Cipher::Aes256Gcm => &ring::AES_256_GCM,
                Cipher::Aes128Gcm => &ring::AES_128_GCM,
                Cipher::ChaCha20Poly1305 => &ring::CHACHA20_POLY1305,
            };
            let key = ring::UnboundKey::new(algorithm, key).or(Err(Refused))?;
            Aead::Ring(Box::new(ring::LessSafeKey::new(key)))
        }
    })
}

/// Overwrites what the calls before left of a key below this frame.
#[inline(never)]
pub(crate) fn scrub_stack() {
    let mut frame = [0u64; STACK];
    frame.zeroize();
    black_box(&frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_length_is_refused() {
        for provider in Provider::ALL.iter().copied() {
            for cipher in Cipher::ALL.iter().copied() {
                for len in (0..48).filter(|len| *len != cipher.key_len()) {
                    assert!(Aead::new(provider, cipher, &vec![1; len]).is_err(), "{len}");
                }
            }
        }
    }

    #[test]
    fn a_wiped_key_of_ring_is_one_of_zeros() {
        for cipher in Cipher::ALL.iter().copied() {
            let sealed = |aead: &Aead| {
                let mut text = *b"what was known";
                aead.seal([7; NONCE], &[], &mut text).map(|icv| (text, icv))
            };
            let zeros = vec![0; cipher.key_len()];
            let zeros = Aead::new(Provider::Ring, cipher, &zeros).unwrap();
            let mut aead =
                Aead::new(Provider::Ring, cipher, &vec![0x5a; cipher.key_len()]).unwrap();
            assert_ne!(sealed(&aead), sealed(&zeros));
            aead.wipe();
            assert_eq!(sealed(&aead), sealed(&zeros));
        }
    }
}
