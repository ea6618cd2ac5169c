//! Which of the ciphers of ESP a pair uses. Their numbers stand in payloads.

pub use tunneld_esp::cipher::Cipher;

/// What a node takes: `Backend.Encryption.Cipher` and what its processor is good at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ciphers {
    /// Any, AES-256-GCM before ChaCha20-Poly1305 if the processor has AES instructions.
    Auto {
        /// The processor has AES instructions.
        has_aes: bool,
    },
    /// This one alone.
    Only(Cipher),
}

impl Ciphers {
    /// Returns what is taken, bit n for cipher n.
    pub fn mask(self) -> u8 {
        match self {
            Self::Auto { .. } => Cipher::ALL.iter().fold(0, |mask, cipher| mask | bit(*cipher)),
            Self::Only(cipher) => bit(cipher),
        }
    }

    /// Returns what is preferred.
    pub fn preferred(self) -> Cipher {
        match self {
            Self::Auto { has_aes: true } => Cipher::Aes256Gcm,
            Self::Auto { has_aes: false } => Cipher::ChaCha20Poly1305,
            Self::Only(cipher) => cipher,
        }
    }

    /// Returns whether a cipher is taken.
    pub fn takes(self, cipher: Cipher) -> bool {
        self.mask() & bit(cipher) != 0
    }

    /// Chooses for an initiator that takes `mask` and prefers `preferred`: ChaCha20-Poly1305 if
    /// either prefers it, so that a processor without AES instructions is not held to AES.
    pub fn choose(self, mask: u8, preferred: u8) -> Option<Cipher> {
        let both = self.mask() & mask;
        let prefers = [self.preferred() as u8, preferred];
        let chacha = Cipher::ChaCha20Poly1305;
        if both & bit(chacha) != 0 && prefers.contains(&(chacha as u8)) {
            return Some(chacha);
        }
        Cipher::ALL.iter().copied().find(|cipher| both & bit(*cipher) != 0)
    }
}

fn bit(cipher: Cipher) -> u8 {
    1 << cipher as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_uses_chacha_if_either_prefers_it_and_else_aes_256() {
        use Cipher::{Aes128Gcm, Aes256Gcm, ChaCha20Poly1305};
        let (aes, none) = (Ciphers::Auto { has_aes: true }, Ciphers::Auto { has_aes: false });
        let only = Ciphers::Only;
        for (responder, initiator, expected) in [
            (aes, aes, Some(Aes256Gcm)),
            (aes, none, Some(ChaCha20Poly1305)),
            (none, aes, Some(ChaCha20Poly1305)),
            (none, none, Some(ChaCha20Poly1305)),
            (none, only(Aes128Gcm), Some(Aes128Gcm)),
            (only(Aes256Gcm), none, Some(Aes256Gcm)),
            (only(Aes256Gcm), only(Aes256Gcm), Some(Aes256Gcm)),
            (only(Aes256Gcm), only(Aes128Gcm), None),
        ] {
            let chosen = responder.choose(initiator.mask(), initiator.preferred() as u8);
            assert_eq!(chosen, expected, "{responder:?} answers {initiator:?}");
        }
    }

    #[test]
    fn bits_are_those_of_the_wire() {
        assert_eq!(Ciphers::Auto { has_aes: true }.mask(), 0b1110);
    }
}
