//! The self-test of a provider: published answers, before anything is sealed with it.

use core::fmt;

use crate::aead::{Aead, NONCE, Refused};
use crate::cipher::Cipher;
use crate::packet::ICV;
use crate::provider::Provider;

/// Seals and opens one known text with each cipher, and opens one that was changed.
///
/// # Errors
///
/// [`WrongAnswer`]: the first cipher whose answer was not the known one. Nothing may be sealed
/// with this provider then.
pub fn check(provider: Provider) -> Result<(), WrongAnswer> {
    KNOWN.iter().try_for_each(|known| {
        let right = known.holds(provider) == Ok(true);
        if right { Ok(()) } else { Err(WrongAnswer { provider, cipher: known.cipher }) }
    })
}

/// A provider does not compute what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongAnswer {
    /// Who gave it.
    pub provider: Provider,
    /// With what cipher.
    pub cipher: Cipher,
}

impl fmt::Display for WrongAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, cipher } = self;
        let other = if *provider == Provider::Ring { Provider::AwsLc } else { Provider::Ring };
        write!(
            f,
            "{provider} fails its self-test with {cipher}: expected the published test vector; \
             choose {other}, and suspect this processor or this build"
        )
    }
}

impl core::error::Error for WrongAnswer {}

/// A published answer.
struct Known {
    cipher: Cipher,
    key: &'static [u8],
    nonce: [u8; NONCE],
    aad: &'static [u8],
    text: &'static [u8],
    sealed: &'static [u8],
    icv: [u8; ICV],
}

impl Known {
    fn holds(&self, provider: Provider) -> Result<bool, Refused> {
        let aead = Aead::new(provider, self.cipher, self.key)?;
        let mut text = [0; 128];
        let text = text.get_mut(..self.text.len() + ICV).ok_or(Refused)?;
        let (body, icv) = text.split_at_mut(self.text.len());
        body.copy_from_slice(self.text);
        icv.copy_from_slice(&aead.seal(self.nonce, self.aad, body)?);
        let sealed = body == self.sealed && icv == self.icv;
        aead.open(self.nonce, self.aad, text)?;
        let (body, icv) = text.split_at_mut(self.text.len());
        let opened = body == self.text;
        body.copy_from_slice(self.sealed);
        icv.copy_from_slice(&self.icv);
        icv[ICV - 1] ^= 1;
        Ok(sealed && opened && aead.open(self.nonce, self.aad, text).is_err())
    }
}

/// draft-mcgrew-gcm-test-01 §4 (AES-GCM in ESP, with and without extended numbers) and RFC 7634
/// appendix A.
const KNOWN: &[Known] = &[
    Known {
        cipher: Cipher::Aes256Gcm,
        key: &bytes::<32>(b"abbccddef00112233445566778899aababbccddef00112233445566778899aab"),
        nonce: bytes(b"112233440102030405060708"),
        aad: &bytes::<8>(b"4a2cbfe300000002"),
        text: &bytes::<52>(
            b"4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee0000000007002400020bf0000\
              020405b40101040201020201",
        ),
        sealed: &bytes::<52>(
            b"ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763748a637985771d34\
              7f0545659f14e99def842d8e",
        ),
        icv: bytes(b"b335f4eecfdbf831824b4c4915956c96"),
    },
    Known {
        cipher: Cipher::Aes128Gcm,
        key: &bytes::<16>(b"4c80cdefbb5d10da906ac73c3613a634"),
        nonce: bytes(b"2e443b684956ed7e3b244cfe"),
        aad: &bytes::<12>(b"000043218765432100000000"),
        text: &bytes::<72>(
            b"45000048699a000080114db7c0a80102c0a801010a9bf15638d301000001000000000000045f7369\
              70045f756470037369700963796265726369747902646b000021000101020201",
        ),
        sealed: &bytes::<72>(
            b"fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf\
              65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732",
        ),
        icv: bytes(b"459018148f6cbe722fd04796562dfdb4"),
    },
    Known {
        cipher: Cipher::ChaCha20Poly1305,
        key: &bytes::<32>(b"808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"),
        nonce: bytes(b"a0a1a2a31011121314151617"),
        aad: &bytes::<8>(b"0102030400000005"),
        text: &bytes::<88>(
            b"45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b\
              0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233\
              3435363701020204",
        ),
        sealed: &bytes::<88>(
            b"24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb\
              61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da\
              9165b82829f641e0",
        ),
        icv: bytes(b"76aaa8266b7fb0f7b11b369907e1ad43"),
    },
];

/// Returns the bytes that `hex` spells, at compile time.
const fn bytes<const N: usize>(hex: &[u8]) -> [u8; N] {
    assert!(hex.len() == 2 * N, "two digits a byte");
    let mut bytes = [0; N];
    let mut at = 0;
    while at < hex.len() {
        let digit = match hex[at] {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'a'..=b'f' => digit - b'a' + 10,
            _ => panic!("a digit of hex"),
        };
        bytes[at / 2] = bytes[at / 2] << 4 | digit;
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_provider_gives_the_known_answer_with_every_cipher() {
        let tested: Vec<Cipher> = KNOWN.iter().map(|known| known.cipher).collect();
        assert_eq!(tested, Cipher::ALL);
        for provider in Provider::ALL {
            assert_eq!(check(*provider), Ok(()));
        }
    }

    #[test]
    fn a_wrong_answer_is_noticed_and_names_provider_and_cipher() {
        let wrong = |change: fn(&mut Known)| {
            let [known, ..] = KNOWN else { unreachable!() };
            let mut known = Known { ..*known };
            change(&mut known);
            Provider::ALL.iter().map(|provider| known.holds(*provider)).collect::<Vec<_>>()
        };
        assert_eq!(wrong(|_| ()), [Ok(true); 2]);
        assert_eq!(wrong(|known| known.icv[0] ^= 1), [Ok(false); 2]);
        assert_eq!(wrong(|known| known.sealed = known.text), [Ok(false); 2]);
        assert_eq!(wrong(|known| known.nonce[11] ^= 1), [Ok(false); 2]);
        assert_eq!(wrong(|known| known.key = &[0; 31]), [Err(Refused); 2]);
        let said = WrongAnswer { provider: Provider::Ring, cipher: Cipher::Aes128Gcm }.to_string();
        assert!(said.starts_with("ring fails its self-test with aes-128-gcm"), "{said}");
        assert!(said.contains("choose aws-lc-rs"), "{said}");
    }
}
