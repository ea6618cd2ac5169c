//! Longest-prefix match over IPv6: a search through ranges, begun near its end.
//!
//! Nested prefixes are cut into ranges that do not overlap, each with the target of the longest
//! prefix that covers it; a lookup finds the last range that starts at or before the address. The
//! bits behind those that all starts share are an index into the ranges: one or two are left to
//! search where subnets lie evenly, as those of an overlay do, and at worst as many steps as the
//! number of ranges has bits. A prefix costs at most 64 bytes, wherever it lies; a trie with the
//! strides of the table for IPv4 would cost kilobytes.
//!
//! Source: Lampson, Srinivasan and Varghese 1999 (IEEE/ACM ToN 7:3), IP lookups using multiway
//! and multicolumn search.

use std::net::Ipv6Addr;

use crate::fib::Target;

/// What the addresses from `start` to before the next range lead to.
#[derive(Debug, Clone, Copy)]
struct Range {
    /// Both halves of the first address: as a u128 it would be aligned to 16 bytes.
    start: [u64; 2],
    target: Option<Target>,
}

impl Range {
    const fn new(start: u128, target: Option<Target>) -> Self {
        Self { start: [(start >> 64) as u64, start as u64], target }
    }

    const fn start(&self) -> u128 {
        let [high, low] = self.start;
        (high as u128) << 64 | low as u128
    }
}

/// The table. Immutable once built.
#[derive(Debug)]
pub(super) struct Ipv6Table {
    /// Sorted by start. The first one starts at `::`, and is outside of the index.
    ranges: Box<[Range]>,
    /// Starts of the second range and of the last one.
    bounds: [u128; 2],
    /// Bits of an address behind its index bits.
    shift: u32,
    /// For each value of the index bits from that of the first bound on, the first range that
    /// does not start below it.
    index: Box<[u32]>,
}

impl Ipv6Table {
    /// Builds the table from first addresses, lengths and targets of prefixes, all distinct.
    pub(super) fn build(mut entries: Vec<(Ipv6Addr, u8, Target)>) -> Self {
        entries.sort_unstable_by_key(|(address, length, _)| (*address, *length));
        let ranges = cut(&entries);
        let (first, last) = match &*ranges {
            [_, only] => (only.start(), only.start()),
            [_, second, .., last] => (second.start(), last.start()),
            _ => (u128::MAX, u128::MAX),
        };
        let shared = (first ^ last).leading_zeros();
        let index_bits = (128 - shared).min(ranges.len().next_power_of_two().ilog2());
        let shift = 128 - shared - index_bits;
        let mut index = Vec::new();
        if index_bits > 0 {
            let base = first >> shift;
            for (range, number) in ranges.iter().zip(0u32..).skip(1) {
                let value = ((range.start() >> shift) - base) as usize;
                index.resize(index.len().max(value + 1), number);
            }
            index.push(ranges.len() as u32);
        }
        Self { ranges, bounds: [first, last], shift, index: index.into_boxed_slice() }
    }

    pub(super) fn lookup(&self, address: Ipv6Addr) -> Option<Target> {
        let (bits, [first, last]) = (address.to_bits(), self.bounds);
        if bits < first {
            return self.ranges[0].target;
        }
        if bits >= last {
            return self.ranges[self.ranges.len() - 1].target;
        }
        let value = ((bits >> self.shift) - (first >> self.shift)) as usize;
        let (from, to) = (self.index[value] as usize, self.index[value + 1] as usize);
        let after = self.ranges[from..to].partition_point(|range| range.start() <= bits);
        self.ranges[from + after - 1].target
    }
}

/// Cuts prefixes, sorted by address and length, into ranges.
fn cut(entries: &[(Ipv6Addr, u8, Target)]) -> Box<[Range]> {
    let mut ranges = vec![Range::new(0, None)];
    // The prefixes around the present place, from the shortest to the longest, with their ends.
    let mut around: Vec<(u128, Target)> = Vec::new();
    for (address, length, target) in entries {
        let start = address.to_bits();
        leave(&mut around, Some(start), &mut ranges);
        let end = start | u128::MAX.checked_shr(u32::from(*length)).unwrap_or(0);
        around.push((end, *target));
        begin(&mut ranges, start, Some(*target));
    }
    leave(&mut around, None, &mut ranges);
    ranges.into_boxed_slice()
}

/// Ends the prefixes that end before `upto`, or all.
fn leave(around: &mut Vec<(u128, Target)>, upto: Option<u128>, ranges: &mut Vec<Range>) {
    while let Some((end, _)) = around.last().copied() {
        if upto.is_some_and(|upto| upto <= end) {
            return;
        }
        around.pop();
        if let Some(behind) = end.checked_add(1) {
            begin(ranges, behind, around.last().map(|(_, target)| *target));
        }
    }
}

/// Begins a range, which replaces one that begins there too, and goes on with one of its target.
fn begin(ranges: &mut Vec<Range>, start: u128, target: Option<Target>) {
    if ranges.last().is_some_and(|range| range.start() == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|range| range.target != target) {
        ranges.push(Range::new(start, target));
    }
}

#[cfg(test)]
mod tests;
