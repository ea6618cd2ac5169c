//! Longest-prefix match over IPv4: a multibit trie with strides of 16, 8 and 8 bits.
//!
//! A lookup is one to three loads from flat arrays. Prefixes are painted shortest first, each
//! over the ones before, so that a slot always holds the longest prefix that covers it. A node of
//! 256 slots is made only where a prefix is longer than the level above can tell.
//!
//! Source: controlled prefix expansion, Srinivasan and Varghese 1999 (ACM TOCS 17:1).

use std::net::Ipv4Addr;

use crate::fib::{AdjacencyId, Target};

const ROOT_BITS: u8 = 16;
const NODE_BITS: u8 = 8;
const NODE_SLOTS: usize = 1 << NODE_BITS;

/// A slot: nothing, a target, or the number of a node one level down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const EMPTY: Self = Self(0);
    const LOCAL: Self = Self(1);
    const FIRST_ADJACENCY: u32 = 2;
    const NODE: u32 = 1 << 31;

    const fn of(target: Target) -> Self {
        match target {
            Target::Local => Self::LOCAL,
            Target::Adjacency(AdjacencyId(place)) => Self(place + Self::FIRST_ADJACENCY),
        }
    }

    const fn target(self) -> Option<Target> {
        match self {
            Self::EMPTY => None,
            Self::LOCAL => Some(Target::Local),
            Self(number) => Some(Target::Adjacency(AdjacencyId(number - Self::FIRST_ADJACENCY))),
        }
    }

    const fn node(self) -> Option<usize> {
        if self.0 & Self::NODE != 0 { Some((self.0 & !Self::NODE) as usize) } else { None }
    }
}

/// The table. Immutable once built.
#[derive(Debug)]
pub(super) struct Ipv4Table {
    root: Box<[Slot]>,
    /// Nodes of both lower levels, 256 slots each.
    nodes: Vec<Slot>,
}

impl Ipv4Table {
    /// Builds the table from first addresses, lengths and targets of prefixes, all distinct.
    pub(super) fn build(mut entries: Vec<(Ipv4Addr, u8, Target)>) -> Self {
        // Order among equal lengths does not matter: such prefixes are disjoint.
        entries.sort_by_key(|(_, length, _)| *length);
        let mut table =
            Self { root: vec![Slot::EMPTY; 1 << ROOT_BITS].into_boxed_slice(), nodes: Vec::new() };
        for (address, length, target) in entries {
            table.paint(address.to_bits(), length, Slot::of(target));
        }
        table.nodes.shrink_to_fit();
        table
    }

    pub(super) fn lookup(&self, address: Ipv4Addr) -> Option<Target> {
        let bits = address.to_bits();
        let mut slot = self.root[(bits >> 16) as usize];
        if let Some(node) = slot.node() {
            slot = self.nodes[node * NODE_SLOTS + (bits >> 8 & 0xff) as usize];
            if let Some(node) = slot.node() {
                slot = self.nodes[node * NODE_SLOTS + (bits & 0xff) as usize];
            }
        }
        slot.target()
    }

    fn paint(&mut self, bits: u32, length: u8, slot: Slot) {
        let first = (bits >> 16) as usize;
        let Some(rest) = length.checked_sub(ROOT_BITS).filter(|rest| *rest > 0) else {
            self.root[first..first + (1 << (ROOT_BITS - length))].fill(slot);
            return;
        };
        let node = self.node_below_root(first);
        let second = node * NODE_SLOTS + (bits >> 8 & 0xff) as usize;
        let Some(rest) = rest.checked_sub(NODE_BITS).filter(|rest| *rest > 0) else {
            self.nodes[second..second + (1 << (NODE_BITS - rest))].fill(slot);
            return;
        };
        let node = self.node_below_node(second);
        let third = node * NODE_SLOTS + (bits & 0xff) as usize;
        self.nodes[third..third + (1 << (NODE_BITS - rest))].fill(slot);
    }

    fn node_below_root(&mut self, at: usize) -> usize {
        self.root[at].node().unwrap_or_else(|| {
            let (node, slot) = self.add_node(self.root[at]);
            self.root[at] = slot;
            node
        })
    }

    fn node_below_node(&mut self, at: usize) -> usize {
        self.nodes[at].node().unwrap_or_else(|| {
            let (node, slot) = self.add_node(self.nodes[at]);
            self.nodes[at] = slot;
            node
        })
    }

    /// Adds a node whose slots all say what the slot above said; returns its number and the slot
    /// that points to it. There are at most 2^16 + 2^24 nodes, well below the marking bit.
    fn add_node(&mut self, above: Slot) -> (usize, Slot) {
        let node = self.nodes.len() / NODE_SLOTS;
        self.nodes.resize(self.nodes.len() + NODE_SLOTS, above);
        (node, Slot(node as u32 | Slot::NODE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjacency(place: u32) -> Target {
        Target::Adjacency(AdjacencyId(place))
    }

    fn entry(text: &str, target: Target) -> (Ipv4Addr, u8, Target) {
        let (address, length) = text.split_once('/').unwrap();
        (address.parse().unwrap(), length.parse().unwrap(), target)
    }

    fn lookup(entries: &[(&str, Target)], address: &str) -> Option<Target> {
        let entries = entries.iter().map(|(text, target)| entry(text, *target)).collect();
        Ipv4Table::build(entries).lookup(address.parse().unwrap())
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(lookup(&[], "10.5.0.1"), None);
    }

    #[test]
    fn the_longest_prefix_wins_in_whatever_order_they_come() {
        let mut entries = [
            ("0.0.0.0/0", adjacency(0)),
            ("10.0.0.0/8", adjacency(1)),
            ("10.5.0.0/16", adjacency(2)),
            ("10.5.26.0/24", Target::Local),
            ("10.5.26.128/25", adjacency(4)),
            ("10.5.26.200/32", adjacency(5)),
        ];
        for _ in 0..entries.len() {
            entries.rotate_left(1);
            for (address, target) in [
                ("9.9.9.9", adjacency(0)),
                ("10.6.0.1", adjacency(1)),
                ("10.5.27.1", adjacency(2)),
                ("10.5.26.127", Target::Local),
                ("10.5.26.128", adjacency(4)),
                ("10.5.26.200", adjacency(5)),
                ("10.5.26.201", adjacency(4)),
            ] {
                assert_eq!(lookup(&entries, address), Some(target), "{address}");
            }
        }
    }

    #[test]
    fn a_prefix_covers_its_first_and_last_address_and_no_other() {
        let entries = [("10.5.26.0/23", adjacency(7))];
        assert_eq!(lookup(&entries, "10.5.25.255"), None);
        assert_eq!(lookup(&entries, "10.5.26.0"), Some(adjacency(7)));
        assert_eq!(lookup(&entries, "10.5.27.255"), Some(adjacency(7)));
        assert_eq!(lookup(&entries, "10.5.28.0"), None);
    }

    /// xorshift64*: the same numbers in every run.
    struct Seeded(u64);

    impl Seeded {
        fn next(&mut self) -> u32 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
        }
    }

    fn mask(length: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
    }

    #[test]
    fn agrees_with_a_search_through_a_list() {
        let mut random = Seeded(9);
        for round in 0..60 {
            // A narrow block makes prefixes nest and neighbour each other.
            let spread = [0xffff_ffff, 0x0003_ffff, 0x0000_0fff][round % 3];
            let mut list: Vec<(u32, u8, Target)> = Vec::new();
            for place in 0..200 {
                let length = (random.next() % 33) as u8;
                let first = (0x0a05_0000 ^ random.next() & spread) & mask(length);
                if list.iter().all(|(other, len, _)| (*other, *len) != (first, length)) {
                    list.push((first, length, adjacency(place)));
                }
            }
            let entries = list
                .iter()
                .map(|(first, length, target)| (Ipv4Addr::from_bits(*first), *length, *target));
            let table = Ipv4Table::build(entries.collect());
            let edges = list.iter().flat_map(|(first, length, _)| {
                let last = first | !mask(*length);
                [*first, first.wrapping_sub(1), last, last.wrapping_add(1)]
            });
            let anywhere: Vec<u32> =
                (0..500).map(|_| 0x0a05_0000 ^ random.next() & spread).collect();
            for bits in edges.chain(anywhere) {
                let naive = list
                    .iter()
                    .filter(|(first, length, _)| bits & mask(*length) == *first)
                    .max_by_key(|(_, length, _)| *length)
                    .map(|(_, _, target)| *target);
                let address = Ipv4Addr::from_bits(bits);
                assert_eq!(table.lookup(address), naive, "{address}");
            }
        }
    }

    #[test]
    fn a_million_subnets_cost_a_hundred_megabytes_at_most() {
        let entry = |i: u32| (Ipv4Addr::from_bits(i << 4), 28, adjacency(i));
        let entries = (0..1 << 20).map(entry).collect();
        let table = Ipv4Table::build(entries);
        assert!((table.root.len() + table.nodes.capacity()) * size_of::<Slot>() < 100_000_000);
        for i in [0, 1, 0x8_0000, (1 << 20) - 1] {
            assert_eq!(table.lookup(Ipv4Addr::from_bits(i << 4 | 9)), Some(adjacency(i)));
        }
        assert_eq!(table.lookup(Ipv4Addr::from_bits(1 << 24)), None);
    }
}
