//! What the duties of a thread share.

use crate::descriptor::Descriptors;
use crate::errands::Errands;
use crate::event::Events;
use crate::keying::Keying;
use crate::offloads::Offloads;
use crate::pulse::Pulse;

/// What a duty reads, writes and reports by, beside its own.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) descriptors: &'a Descriptors,
    pub(crate) pulse: &'a Pulse,
    pub(crate) events: &'a Events,
    pub(crate) offloads: &'a Offloads,
    pub(crate) errands: &'a Errands,
    /// `None`: nothing is sealed or opened.
    pub(crate) keying: Option<&'a Keying>,
}
