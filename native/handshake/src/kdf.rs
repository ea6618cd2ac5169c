//! SHA-256, HMAC and HKDF, as the labels of this protocol use them.
//!
//! Source: RFC 2104, RFC 5869.

use aws_lc_rs::{constant_time, digest, hkdf, hmac};
use zeroize::Zeroizing;

/// Bytes of a truncated HMAC on the wire.
pub const MAC_LEN: usize = 16;

/// Returns SHA-256 of the parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A key of HMAC-SHA-256 whose results are cut to 16 bytes.
#[derive(Clone)]
pub struct MacKey(hmac::Key);

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey")
    }
}

impl MacKey {
    /// Takes a key of any length.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Returns the first 16 bytes of the HMAC of the parts.
    pub fn of(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        let mut out = [0; MAC_LEN];
        out.copy_from_slice(&context.sign().as_ref()[..MAC_LEN]);
        out
    }
}

/// Compares without telling by the time taken where two values differ.
pub fn is_equal(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// A length of output for HKDF.
struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA-256, extract and expand; fills `out`.
///
/// Returns `false` when `out` is longer than HKDF gives (8,160 bytes).
pub fn hkdf_sha256(salt: &[u8], secret: &[u8], info: &[u8], out: &mut [u8]) -> bool {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    prk.expand(&[info], Len(out.len())).and_then(|okm| okm.fill(out)).is_ok()
}

/// The same for the 32 bytes that Noise wants.
pub(crate) fn hkdf_32(salt: &[u8], secret: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let fits = hkdf_sha256(salt, secret, info, &mut *out);
    debug_assert!(fits, "32 bytes are one block of HKDF");
    out
}
