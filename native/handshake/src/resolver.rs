//! What `snow` computes with: aws-lc for X25519 and ChaCha20-Poly1305, RustCrypto's BLAKE2s.
//!
//! `snow`'s own X25519 takes keys of small order for good; aws-lc's refuses them (RFC 7748 §6.1).
//! The ephemeral key comes from bytes given at the start, since this crate has no randomness.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use blake2::{Blake2s256, Digest};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// The resolver of one handshake.
pub struct Resolver {
    ephemeral: Zeroizing<[u8; KEY_LEN]>,
}

impl Resolver {
    /// Takes the 32 random bytes that become the ephemeral private key.
    pub fn new(ephemeral: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self { ephemeral }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once::new(self.ephemeral.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::Blake2s => Some(Box::new(Blake2s(Blake2s256::new()))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly(None))),
            _ => None,
        }
    }
}

/// Bytes that are given out once: a second ephemeral key of the same bytes would end secrecy.
pub(crate) struct Once(Option<Zeroizing<[u8; KEY_LEN]>>);

impl Once {
    pub(crate) fn new(bytes: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(Some(bytes))
    }
}

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let bytes = self.0.take().ok_or(Error::Rng)?;
        dest.copy_from_slice(bytes.get(..dest.len()).ok_or(Error::Rng)?);
        Ok(())
    }
}

/// A key pair. The private half lives in aws-lc, which wipes what it frees.
#[derive(Default)]
struct X25519 {
    private: Option<PrivateKey>,
    public: [u8; KEY_LEN],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        let key = PrivateKey::from_private_key(&agreement::X25519, privkey).ok();
        let public = key.as_ref().and_then(|key| key.compute_public_key().ok());
        if let Some(public) = public {
            self.public.copy_from_slice(public.as_ref());
            self.private = key;
        }
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rng.try_fill_bytes(&mut *bytes)?;
        self.set(&*bytes);
        self.private.as_ref().map(|_| ()).ok_or(Error::Dh)
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    /// Nothing: the private key does not leave aws-lc, and a handshake does not ask for it.
    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let private = self.private.as_ref().ok_or(Error::Dh)?;
        // snow hands over its whole buffer, which is longer than the key.
        let public = pubkey.get(..KEY_LEN).ok_or(Error::Dh)?;
        let public = UnparsedPublicKey::new(&agreement::X25519, public);
        agreement::agree(private, public, Error::Dh, |secret| {
            out.get_mut(..KEY_LEN).ok_or(Error::Dh)?.copy_from_slice(secret);
            Ok(())
        })
    }
}

/// ChaCha20-Poly1305 with Noise's nonce: four zero bytes, then the number in little-endian.
struct ChaChaPoly(Option<LessSafeKey>);

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY_LEN]) {
        self.0 = UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new);
    }

    fn encrypt(&self, number: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plaintext.len());
        text.copy_from_slice(plaintext);
        let key = self.0.as_ref();
        let tag = key.map(|key| key.seal_in_place_separate_tag(nonce(number), Aad::from(ad), text));
        match tag {
            Some(Ok(tag)) => rest[..TAG_LEN].copy_from_slice(tag.as_ref()),
            // aws-lc refuses no key of 32 bytes and no text this short. Were it to, nothing
            // readable may leave.
            _ => {
                text.fill(0);
                rest[..TAG_LEN].fill(0);
            }
        }
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, number: u64, ad: &[u8], text: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        let len = text.len().checked_sub(TAG_LEN).ok_or(Error::Decrypt)?;
        let (ciphertext, tag) = text.split_at(len);
        let out = out.get_mut(..len).ok_or(Error::Decrypt)?;
        key.open_separate_gather(nonce(number), Aad::from(ad), ciphertext, tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(len)
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let whole = std::mem::take(&mut self.0).finalize();
        out[..32].copy_from_slice(&whole);
    }
}
