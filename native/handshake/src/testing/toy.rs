//! A suite as quick as it is weak, so that thousands of histories fit into seconds: it keeps the
//! algebra that the state machine relies on (agreement, authentication), and no secret. Test
//! code only; `tests` and `model` run by the real suite too.

use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::key::Identity;
use crate::resolver::Once;

/// The Mersenne prime 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;

struct Toy(Zeroizing<[u8; 32]>);

pub(crate) fn suite(ephemeral: Zeroizing<[u8; 32]>) -> BoxedCryptoResolver {
    Box::new(Toy(ephemeral))
}

/// Returns the identity of 32 bytes in the toy's group.
pub(crate) fn identity(private: [u8; 32]) -> Identity {
    let mut dh = ToyDh::default();
    dh.set(&private);
    Identity::of_pair(private, dh.public)
}

fn power(mut base: u64, mut exponent: u64) -> u64 {
    let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64;
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, base);
        }
        base = times(base, base);
        exponent >>= 1;
    }
    result
}

fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(word) % PRIME
}

impl CryptoResolver for Toy {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once::new(self.0.clone())))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(ToyDh::default()))
    }

    fn resolve_hash(&self, _: &HashChoice) -> Option<Box<dyn Hash>> {
        Some(Box::new(ToyHash::default()))
    }

    fn resolve_cipher(&self, _: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Some(Box::new(ToyCipher([0; 32])))
    }
}

#[derive(Default)]
struct ToyDh {
    private: u64,
    public: [u8; 32],
}

impl Dh for ToyDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private = number(private);
        self.public[..8].copy_from_slice(&power(3, self.private).to_le_bytes());
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = [0; 32];
        rng.try_fill_bytes(&mut bytes)?;
        self.set(&bytes);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let shared = power(number(public), self.private);
        out[..8].copy_from_slice(&shared.to_le_bytes());
        if shared == 0 { Err(Error::Dh) } else { Ok(()) }
    }
}

/// Four words, each of which every byte changes.
#[derive(Clone)]
struct ToyHash([u64; 4], u64);

impl Default for ToyHash {
    fn default() -> Self {
        Self([1, 2, 3, 4].map(|lane| 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(lane)), 0)
    }
}

impl ToyHash {
    fn word(&mut self, word: u64) {
        let mut carry = word ^ self.1;
        self.1 = self.1.wrapping_add(0x9e37_79b9_7f4a_7c15);
        for lane in &mut self.0 {
            let product = u128::from(*lane ^ carry) * 0xe703_7ed1_a0b4_28db;
            *lane = lane.rotate_left(23) ^ product as u64 ^ (product >> 64) as u64;
            carry = carry.rotate_left(17) ^ *lane;
        }
    }

    fn absorb(&mut self, data: &[u8]) {
        for chunk in data.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(data.len() as u64);
    }

    fn digest(&mut self) -> [u8; 32] {
        (0..4).for_each(|round| self.word(round));
        let mut out = [0; 32];
        out.chunks_mut(8)
            .zip(self.0)
            .for_each(|(out, lane)| out.copy_from_slice(&lane.to_le_bytes()));
        out
    }
}

impl Hash for ToyHash {
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
        *self = Self::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.absorb(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.digest());
    }
}

/// A tag over all and no secrecy.
struct ToyCipher([u8; 32]);

impl ToyCipher {
    fn tag(&self, nonce: u64, ad: &[u8], text: &[u8]) -> [u8; 16] {
        let mut hash = ToyHash::default();
        hash.absorb(&self.0);
        hash.word(nonce);
        hash.absorb(ad);
        hash.absorb(text);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hash.digest()[..16]);
        tag
    }
}

impl Cipher for ToyCipher {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = *key;
    }

    fn encrypt(&self, nonce: u64, ad: &[u8], text: &[u8], out: &mut [u8]) -> usize {
        out[..text.len()].copy_from_slice(text);
        out[text.len()..text.len() + 16].copy_from_slice(&self.tag(nonce, ad, text));
        text.len() + 16
    }

    fn decrypt(&self, nonce: u64, ad: &[u8], text: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let len = text.len().checked_sub(16).ok_or(Error::Decrypt)?;
        if self.tag(nonce, ad, &text[..len]) != text[len..] {
            return Err(Error::Decrypt);
        }
        out[..len].copy_from_slice(&text[..len]);
        Ok(len)
    }
}
