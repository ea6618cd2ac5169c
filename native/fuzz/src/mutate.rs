//! Random changes of inputs.
//!
//! Source: xorshift64*, Vigna 2016; FNV-1a, RFC 9923.

/// Longest input, in bytes.
const MAX_LEN: usize = 70_000;

/// Values at which lengths and counts go wrong.
const EDGES: [u16; 12] = [0, 1, 7, 8, 19, 20, 27, 40, 0x7fff, 0x8000, 0xfffe, 0xffff];

/// Makes inputs of inputs.
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    /// A place in an input, more often near its start, where the headers are.
    fn place(&mut self, len: usize) -> usize {
        let end = if self.below(4) == 0 { len } else { len.min(80) };
        self.below(end)
    }

    /// Returns one of `inputs` with a few changes.
    pub(crate) fn change(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let chosen = self.below(inputs.len());
        let mut input = inputs[chosen].clone();
        for _ in 0..1 + self.below(4) {
            let place = self.place(input.len());
            match self.below(7) {
                0 => input.truncate(place),
                1 => {
                    let other = &inputs[self.below(inputs.len())];
                    let from = self.below(other.len());
                    input.truncate(place);
                    input.extend(&other[from.min(other.len())..]);
                }
                2 => {
                    let upto = (place + self.below(200)).min(input.len());
                    let piece = input[place.min(upto)..upto].to_vec();
                    input.splice(place..place, piece);
                }
                3 => {
                    let value = EDGES[self.below(EDGES.len())].to_be_bytes();
                    if let Some(field) = input.get_mut(place & !1..(place & !1) + 2) {
                        field.copy_from_slice(&value);
                    }
                }
                4 => {
                    if let Some(byte) = input.get_mut(place) {
                        *byte = self.below(256) as u8;
                    }
                }
                5 => input.resize(input.len() + self.below(300), self.below(256) as u8),
                _ => {
                    if let Some(byte) = input.get_mut(place) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        input.truncate(MAX_LEN);
        input
    }
}

/// Returns a number that differs for different bytes, as good as always.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
