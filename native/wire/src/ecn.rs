//! Explicit congestion notification: two bits of each IP header, and what becomes of them where a
//! tunnel ends.
//!
//! Path of a packet: underlay → `io` → `core::inbound` → **`wire::ecn`**.
//!
//! Source: RFC 3168 §5, RFC 6040 §4.2.

/// What the two bits say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Ecn {
    /// The ends do not speak it.
    #[default]
    NotEct = 0,
    /// The ends speak it.
    Ect1 = 1,
    /// The ends speak it.
    Ect0 = 2,
    /// A router on the way was congested.
    Ce = 3,
}

impl Ecn {
    /// Returns the mark in a type of service or traffic class.
    pub const fn of(class: u8) -> Self {
        match class & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// Returns whether this outer mark may change an inner one.
    pub const fn may_change_inner(self) -> bool {
        matches!(self, Self::Ect1 | Self::Ce)
    }

    /// Returns the mark a packet goes on with that had the mark `inner` in a tunnel, and this one
    /// around it; `None`: it is to be dropped, since its sender takes nothing else for a sign.
    pub const fn around(self, inner: Self) -> Option<Self> {
        match (self, inner) {
            (Self::Ce, Self::NotEct) => None,
            (Self::Ce, _) => Some(Self::Ce),
            (Self::Ect1, Self::Ect0) => Some(Self::Ect1),
            _ => Some(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_passed_on_as_in_figure_4_of_rfc_6040() {
        const NOT_ECT: Option<Ecn> = Some(Ecn::NotEct);
        const ECT0: Option<Ecn> = Some(Ecn::Ect0);
        const ECT1: Option<Ecn> = Some(Ecn::Ect1);
        const CE: Option<Ecn> = Some(Ecn::Ce);
        // Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let figure = [
            (0, [NOT_ECT, NOT_ECT, NOT_ECT, None]),
            (2, [ECT0, ECT0, ECT1, CE]),
            (1, [ECT1, ECT1, ECT1, CE]),
            (3, [CE, CE, CE, CE]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [0, 2, 1, 3].into_iter().zip(row) {
                // Whatever the six bits of the DSCP are.
                for dscp in [0, 0x2e << 2, 0xfc] {
                    let (inner, outer) = (Ecn::of(inner | dscp), Ecn::of(outer | dscp));
                    assert_eq!(outer.around(inner), expected, "{outer:?} around {inner:?}");
                    assert!(outer.may_change_inner() || expected == Some(inner));
                }
            }
        }
    }
}
