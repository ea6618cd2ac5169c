//! Extended sequence numbers: 64 bits, of which a packet says the lower 32.
//!
//! Source: RFC 4303 §2.2.1 and appendix A2.

use crate::replay::USABLE;

/// The last number of an SA. After it nothing is sealed and nothing opened.
pub const LAST: u64 = 1 << 36;
/// The number from which on a new handshake is wanted.
pub const WANTS_REKEY: u64 = 1 << 35;

/// Returns the number whose lower half is `low`, where `top` is the highest seen: the one nearest
/// to the window. `None` if that is 0 or less, or beyond [`LAST`].
///
/// The lower half 0 alone is no fault: it comes at 2^32.
#[inline]
pub const fn infer(low: u32, top: u64) -> Option<u64> {
    let bottom = (top as u32).wrapping_sub(USABLE as u32 - 1);
    let high = top >> 32;
    // Whether the window lies within one stretch of 2^32 numbers (case A), or reaches back into
    // the one before (case B).
    let high = match (top as u32 >= USABLE as u32 - 1, low >= bottom) {
        (true, true) | (false, false) => Some(high),
        (true, false) => Some(high + 1),
        (false, true) => high.checked_sub(1),
    };
    let Some(high) = high else { return None };
    let number = high << 32 | low as u64;
    if number == 0 || number > LAST { None } else { Some(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: u64 = 1 << 32;
    const WINDOW: u64 = 8_128;

    /// The number with these lower bits that lies in the window or nearest above it.
    fn nearest(low: u32, top: u64) -> Option<u64> {
        let bottom = i128::from(top) - i128::from(WINDOW) + 1;
        let mut number = i128::from(low) - i128::from(TURN);
        while number < bottom {
            number += i128::from(TURN);
        }
        u64::try_from(number).ok().filter(|number| (1..=LAST).contains(number))
    }

    #[test]
    fn the_first_packet_has_number_1_and_none_has_number_0_or_less() {
        assert_eq!(infer(1, 0), Some(1));
        assert_eq!(infer(0, 0), None);
        assert_eq!(infer(0, 8_127), None, "0 is still within the window");
        assert_eq!(infer(u32::MAX, 0), None, "-1");
        assert_eq!(infer((TURN - 8_127) as u32, 0), None, "the window's lower end");
        assert_eq!(infer((TURN - 8_128) as u32, 0), Some(TURN - 8_128), "above the window");
    }

    #[test]
    fn the_lower_half_0_comes_at_2_to_the_32() {
        assert_eq!(infer(0, TURN - 1), Some(TURN));
        assert_eq!(infer(0, TURN), Some(TURN));
        assert_eq!(infer(u32::MAX, TURN), Some(TURN - 1), "one that was overtaken");
        assert_eq!(infer((TURN - 8_127) as u32, TURN), Some(TURN - 8_127));
        assert_eq!(infer((TURN - 8_128) as u32, TURN), Some(2 * TURN - 8_128));
    }

    #[test]
    fn nothing_lies_beyond_the_last_number() {
        assert_eq!(LAST, 16 * TURN);
        assert_eq!(infer(0, LAST - 1), Some(LAST));
        assert_eq!(infer(1, LAST), None);
        assert_eq!(infer(0, LAST), Some(LAST), "the last one, once more");
        assert_eq!(infer(u32::MAX, LAST), Some(LAST - 1));
        assert_eq!(infer(u32::MAX - 8_127, LAST), None);
    }

    #[test]
    fn a_number_is_the_nearest_that_the_window_has_not_passed() {
        let edges = [0, 1, 2, 63, 64, 8_126, 8_127, 8_128, 8_129, 20_000];
        let near = |place: u64| {
            let above = edges.iter().map(move |edge| place + edge);
            let below = edges.iter().filter_map(move |edge| place.checked_sub(*edge));
            above.chain(below)
        };
        let tops = [0, TURN, 2 * TURN, 5 * TURN, LAST].into_iter().flat_map(near);
        for top in tops.filter(|top| *top <= LAST) {
            let lows = [0, 1 << 31, TURN - 1, top & (TURN - 1)].into_iter().flat_map(near);
            for low in lows.map(|low| low as u32) {
                assert_eq!(infer(low, top), nearest(low, top), "low {low:#x}, top {top:#x}");
            }
        }
    }
}
