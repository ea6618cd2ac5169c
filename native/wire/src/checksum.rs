//! The Internet checksum: whole sums, and repairs after a changed field.
//!
//! Path of a packet: called by `ipv4`, `ipv6`, `icmp` and `virtio_net_hdr`; knows no format itself.
//! Sums run in the machine's own byte order, since a one's complement sum does not care
//! (RFC 1071 §2 (B)), and in 64 bits, so that carries are folded once at the end. The loops
//! stand in `simd`.
//!
//! Source: RFC 1071, RFC 1624.

/// A running one's complement sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Returns the sum of nothing.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Returns the sum with `bytes` added. Every piece but the last must have an even length.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        Self(self.0 + tunneld_simd::sum(bytes))
    }

    /// Copies `from` to `to`, which must be of the same length, and returns the sum with it added.
    #[must_use]
    pub fn with_copy(self, to: &mut [u8], from: &[u8]) -> Self {
        Self(self.0 + tunneld_simd::copy_and_sum(to, from))
    }

    /// Returns the sum with a 32-bit field added, given in host order.
    #[must_use]
    pub const fn with_u32(self, value: u32) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Returns the sum with a 128-bit field added, given in host order.
    #[must_use]
    pub const fn with_u128(self, value: u128) -> Self {
        self.with_u32((value >> 96) as u32)
            .with_u32((value >> 64) as u32)
            .with_u32((value >> 32) as u32)
            .with_u32(value as u32)
    }

    /// Returns the sum with a 16-bit field added, given in host order.
    #[must_use]
    pub const fn with_u16(self, value: u16) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Returns the sum folded to 16 bits, in host order, not complemented.
    pub const fn fold(self) -> u16 {
        // Halves are added to each other both ways round: the upper sum then has the lower's carry.
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        let sum = (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16;
        u16::from_be(sum)
    }

    /// Returns the checksum field: the folded sum's complement, in host order.
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Returns the checksum after one of the summed 16-bit words went from `old` to `new`.
///
/// Source: RFC 1624 §3, equation 3, which is right also where the sum turns to zero.
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = !checksum as u32 + !old as u32 + new as u32;
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum = (sum & 0xffff) + 1;
            }
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().with(&bytes).fold(), 0xddf2);
    }

    #[test]
    fn agrees_with_a_word_by_word_sum_at_every_length() {
        let mut random = Seeded::new(1);
        for len in (0..200).chain([1499, 1500, 65_535]) {
            let bytes = random.bytes(len);
            assert_eq!(Sum::new().with(&bytes).checksum(), naive(&bytes), "length {len}");
        }
    }

    #[test]
    fn sum_of_all_ones_does_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(Sum::new().with(&bytes).checksum(), naive(&bytes));
    }

    #[test]
    fn pieces_add_up_to_the_whole() {
        let bytes = Seeded::new(2).bytes(64);
        let pieces = Sum::new().with(&bytes[..20]).with(&bytes[20..38]).with(&bytes[38..]);
        assert_eq!(pieces.checksum(), Sum::new().with(&bytes).checksum());
    }

    #[test]
    fn fields_add_up_to_their_bytes() {
        let bytes: [u8; 16] = Seeded::new(4).bytes(16).try_into().unwrap();
        let sum = Sum::new().with(&bytes).fold();
        assert_eq!(Sum::new().with_u128(u128::from_be_bytes(bytes)).fold(), sum);
    }

    #[test]
    fn example_of_rfc_1624_section_4() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn repaired_checksum_equals_a_full_recomputation() {
        let mut random = Seeded::new(3);
        for _ in 0..100_000 {
            let mut bytes = random.bytes(20);
            let before = Sum::new().with(&bytes).checksum();
            let old = u16::from_be_bytes([bytes[8], bytes[9]]);
            let new = random.next() as u16;
            bytes[8..10].copy_from_slice(&new.to_be_bytes());
            assert_eq!(update(before, old, new), Sum::new().with(&bytes).checksum());
        }
    }
}
