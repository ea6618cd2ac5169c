//! Why a packet is not opened. The name in snake case is the counter's label.

use core::fmt;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a packet was not opened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// Every fault, in the order in which they are looked for.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns its name outside this program.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

faults! {
    /// Shorter than a packet without payload.
    Malformed = "esp_malformed",
    /// Of another SA than the one it is opened under.
    OtherSpi = "esp_other_spi",
    /// The SA's time is over.
    Ended = "esp_sa_ended",
    /// The sequence number would be 0 or less, or beyond the last.
    Sequence = "esp_sequence",
    /// The sequence number was seen before.
    Replayed = "esp_replayed",
    /// The ICV is not that of this packet under this key.
    Forged = "esp_forged",
    /// Authentic, but its padding is not 1, 2, 3 … or longer than the packet.
    Padding = "esp_padding",
    /// Authentic, but its next header is none of ours, or not that of the packet's version.
    NextHeader = "esp_next_header",
    /// Authentic, but the inner packet is longer than its payload, or shorter than its header.
    InnerLength = "esp_inner_length",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
