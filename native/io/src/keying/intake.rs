//! What data threads leave for the thread of the handshakes, a bounded number of each kind.
//!
//! Path of a message: underlay → `io::inbound` → **`intake`** → `keying::thread`.
//! A data thread comes here once a batch at most, and only if there is something. Whatever comes, the
//! memory is that made at the start.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tunneld_core::control::MAX_LEN;

/// Messages that wait; further ones are dropped. The handshake knows its load by that.
pub(crate) const CAPACITY: usize = 64;

/// Senders of ESP without SA that are kept; the others will send again.
const MOST_UNKNOWN: usize = 64;

/// A handshake message.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    pub(crate) from: SocketAddr,
    len: usize,
    bytes: [u8; MAX_LEN],
}

impl Message {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

struct Waiting {
    messages: VecDeque<Message>,
    unknown: Vec<SocketAddr>,
    has_news: bool,
}

/// What waits.
pub(crate) struct Intake(Mutex<Waiting>);

impl Default for Intake {
    fn default() -> Self {
        Self(Mutex::new(Waiting {
            messages: VecDeque::with_capacity(CAPACITY),
            unknown: Vec::with_capacity(MOST_UNKNOWN),
            has_news: false,
        }))
    }
}

impl Intake {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves handshake messages, none longer than [`MAX_LEN`]; returns how many had no room.
    pub(crate) fn leave<'a>(
        &self,
        messages: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> usize {
        let mut waiting = self.lock();
        let mut dropped = 0;
        for (from, content) in messages {
            if waiting.messages.len() == CAPACITY {
                dropped += 1;
                continue;
            }
            let mut bytes = [0; MAX_LEN];
            bytes[..content.len()].copy_from_slice(content);
            waiting.messages.push_back(Message { from, len: content.len(), bytes });
        }
        dropped
    }

    /// Notes that ESP came from somebody, with SPIs that nobody here has.
    pub(crate) fn leave_unknown(&self, senders: impl Iterator<Item = SocketAddr>) {
        let mut waiting = self.lock();
        for from in senders {
            if waiting.unknown.len() < MOST_UNKNOWN && !waiting.unknown.contains(&from) {
                waiting.unknown.push(from);
            }
        }
    }

    /// Notes that something authentic came under a set that waited for it.
    pub(crate) fn leave_news(&self) {
        self.lock().has_news = true;
    }

    /// Returns whether no message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().messages.is_empty()
    }

    /// Takes the oldest message, with the number of those behind it.
    pub(crate) fn take(&self) -> Option<(Message, usize)> {
        let mut waiting = self.lock();
        let message = waiting.messages.pop_front()?;
        Some((message, waiting.messages.len()))
    }

    /// Takes the senders of ESP without SA.
    pub(crate) fn take_unknown(&self) -> Vec<SocketAddr> {
        self.lock().unknown.drain(..).collect()
    }

    /// Returns whether there was news since the last call.
    pub(crate) fn take_news(&self) -> bool {
        std::mem::take(&mut self.lock().has_news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_64_messages_wait_in_their_order_and_the_rest_is_told() {
        let intake = Intake::default();
        let from = SocketAddr::from(([192, 0, 2, 1], 8286));
        let flood: Vec<[u8; 204]> = (0..200).map(|number| [number; 204]).collect();
        let dropped = intake.leave(flood.iter().map(|message| (from, &message[..])));
        assert_eq!(dropped, 200 - CAPACITY);
        for number in 0..64 {
            let (message, behind) = intake.take().unwrap();
            assert_eq!((message.bytes(), message.from), (&[number; 204][..], from));
            assert_eq!(behind, 63 - usize::from(number));
        }
        assert!(intake.take().is_none());
        assert_eq!(intake.leave([(from, &[1; 44][..])].into_iter()), 0, "there is room again");
        assert_eq!(intake.take().map(|(message, _)| message.bytes().len()), Some(44));
    }

    #[test]
    fn senders_without_sa_are_kept_once_and_no_more_than_64() {
        let intake = Intake::default();
        let sender = |number: u16| SocketAddr::from(([192, 0, 2, 1], number));
        intake.leave_unknown((0..1_000).map(|number| sender(number / 2)));
        assert_eq!(intake.take_unknown(), (0..64).map(sender).collect::<Vec<_>>());
        assert!(intake.take_unknown().is_empty());
    }
}
