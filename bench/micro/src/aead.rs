//! What the AEAD costs alone, by library and cipher, for a packet of the MTU: encrypt in place, then
//! decrypt in place, with a nonce and the additional data of ESP. Nothing of ours is in it.

use std::hint::black_box;

use aws_lc_rs::aead as aws;
use ring::aead as ring;

use crate::cases::{BATCH, Maker};

/// Source: the largest inner packet of ESP over IPv4 with an MTU of 1500.
const LEN: usize = 1_438;
const ICV: usize = 16;
const KEY: [u8; 32] = [7; 32];

/// Returns every cipher by each library.
pub(crate) fn makers() -> Vec<(String, Maker)> {
    let ciphers = [
        ("aes-256-gcm", &aws::AES_256_GCM, &ring::AES_256_GCM),
        ("aes-128-gcm", &aws::AES_128_GCM, &ring::AES_128_GCM),
        ("chacha20-poly1305", &aws::CHACHA20_POLY1305, &ring::CHACHA20_POLY1305),
    ];
    let mut makers: Vec<(String, Maker)> = Vec::new();
    for (cipher, by_aws, by_ring) in ciphers {
        makers.push((format!("aead aws-lc-rs {cipher} {LEN}"), Box::new(|| aws_lc(by_aws))));
        makers.push((format!("aead ring {cipher} {LEN}"), Box::new(|| of_ring(by_ring))));
    }
    makers
}

fn aws_lc(algorithm: &'static aws::Algorithm) -> (usize, Box<dyn FnMut()>) {
    let Ok(key) = aws::UnboundKey::new(algorithm, &KEY[..algorithm.key_len()]) else {
        return (BATCH, Box::new(|| ()));
    };
    let key = aws::LessSafeKey::new(key);
    over_batch(move |number, slot| {
        let nonce = || aws::Nonce::assume_unique_for_key(nonce(number));
        let aad = aad(number);
        let (text, icv) = slot.split_at_mut(LEN);
        let tag = key.seal_in_place_separate_tag(nonce(), aws::Aad::from(aad), text);
        tag.map(|tag| icv.copy_from_slice(tag.as_ref())).ok();
        black_box(key.open_in_place(nonce(), aws::Aad::from(aad), slot)).ok();
    })
}

fn of_ring(algorithm: &'static ring::Algorithm) -> (usize, Box<dyn FnMut()>) {
    let Ok(key) = ring::UnboundKey::new(algorithm, &KEY[..algorithm.key_len()]) else {
        return (BATCH, Box::new(|| ()));
    };
    let key = ring::LessSafeKey::new(key);
    over_batch(move |number, slot| {
        let nonce = || ring::Nonce::assume_unique_for_key(nonce(number));
        let aad = aad(number);
        let (text, icv) = slot.split_at_mut(LEN);
        let tag = key.seal_in_place_separate_tag(nonce(), ring::Aad::from(aad), text);
        tag.map(|tag| icv.copy_from_slice(tag.as_ref())).ok();
        black_box(key.open_in_place(nonce(), ring::Aad::from(aad), slot)).ok();
    })
}

/// Returns what takes each packet of a batch once, with a number that comes once.
fn over_batch(each: impl Fn(u64, &mut [u8]) + 'static) -> (usize, Box<dyn FnMut()>) {
    let mut slots = vec![[0; LEN + ICV]; BATCH];
    let mut number = 0;
    let run = move || {
        for slot in &mut slots {
            number += 1;
            each(number, black_box(slot));
        }
    };
    (BATCH, Box::new(run))
}

fn nonce(number: u64) -> [u8; 12] {
    let mut nonce = [7; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// The index of an SA and the number: as long as ESP's.
fn aad(number: u64) -> [u8; 12] {
    nonce(number)
}
