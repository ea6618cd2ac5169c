//! Why a packet went no further. A drop is a counted fact, not an error.
//!
//! The name in snake case is at once the counter's label, the log field and the test's oracle.

use tunneld_esp::fault::Fault;
use tunneld_esp::seal::Refusal;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a packet went no further.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// Every reason, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the reason's name outside this program.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// Both ways: no settings have been committed yet.
    NotConfigured = "not_configured",
    /// Both ways: an IPv4 packet, and the network has no IPv4.
    Ipv4Disabled = "ipv4_disabled",
    /// Both ways: an IPv6 packet, and the network has no IPv6.
    Ipv6Disabled = "ipv6_disabled",
    /// Both ways: the hop limit ran out here.
    HopLimitExceeded = "hop_limit_exceeded",

    /// Outbound: the device handed over what is no IP packet.
    Malformed = "malformed",
    /// Outbound: a super-packet, though no offload that makes them is on.
    UnexpectedGso = "unexpected_gso",
    /// Outbound: an IPv6 packet that may not leave its link, such as the host's own router
    /// solicitations and multicast listener reports. No fault.
    NotRoutable = "not_routable",
    /// Outbound: no lease covers the destination.
    NoRoute = "no_route",
    /// Outbound: the destination is in the own subnet; sending it would make a loop.
    OwnSubnet = "own_subnet",
    /// Outbound: larger than the peer can take.
    TooBig = "too_big",
    /// Outbound: the underlay refused the datagram for its size.
    TooBigForUnderlay = "too_big_for_underlay",
    /// Outbound: the underlay has no way to the peer at present.
    UnderlayUnreachable = "underlay_unreachable",
    /// Outbound: the underlay refused the datagram for another reason.
    UnderlayRefused = "underlay_refused",
    /// Outbound: the way to this peer takes no more at present; others go on.
    WayFull = "way_full",
    /// Outbound, ESP: there are no keys for the peer yet, and no room to wait for them.
    NoKeys = "no_keys",
    /// Outbound, ESP: the peer does not claim, in its handshake, the subnet that is leased to it.
    Claim = "claim",
    /// Outbound, ESP: the SA has no sequence number left.
    SaExhausted = "sa_exhausted",
    /// Outbound, ESP: the SA's time is over, and no newer one is there.
    SaEnded = "sa_ended",
    /// Outbound, ESP: the library of the cipher refused to seal.
    SealingFailed = "sealing_failed",
    /// Both ways: in hand when the engine was stopped.
    Stopped = "stopped",

    /// Inbound: a datagram without a byte in it.
    Empty = "empty",
    /// Inbound, VXLAN: too short for the VXLAN and the Ethernet header.
    TruncatedFrame = "truncated_frame",
    /// Inbound, VXLAN: the flag that says there is a VNI is clear.
    VniFlagClear = "vni_flag_clear",
    /// Inbound, VXLAN: of another network.
    WrongVni = "wrong_vni",
    /// Inbound, VXLAN: reserved bits are set, for an extension that is not spoken here.
    ReservedBits = "reserved_bits",
    /// Inbound, VXLAN: the frame has a VLAN tag.
    VlanTag = "vlan_tag",
    /// Inbound, VXLAN: ARP; who is where is in the leases.
    ArpInside = "arp_inside",
    /// Inbound, VXLAN: a frame with neither IPv4 nor IPv6.
    UnknownEthertype = "unknown_ethertype",
    /// Inbound, VXLAN: the frame is from our own inner address: a loop, or a forgery.
    OwnMac = "own_mac",
    /// Inbound, VXLAN: the frame is for another inner address, or for a group.
    WrongMac = "wrong_mac",
    /// Inbound, VXLAN: the frame says one IP version and the packet in it another.
    EthertypeMismatch = "ethertype_mismatch",
    /// Inbound, ESP: somebody's NAT keepalive (RFC 3948 §4). No fault.
    Keepalive = "keepalive",
    /// Inbound, ESP: neither ESP nor a message of the handshake.
    EspMalformed = "esp_malformed",
    /// Inbound, ESP: no SA has that SPI.
    EspUnknownSpi = "esp_unknown_spi",
    /// Inbound, ESP: of another SA than the one it was to be opened under.
    EspOtherSpi = "esp_other_spi",
    /// Inbound, ESP: the SA's time is over.
    EspSaEnded = "esp_sa_ended",
    /// Inbound, ESP: the sequence number would be 0 or less, or beyond the last.
    EspSequence = "esp_sequence",
    /// Inbound, ESP: the sequence number was seen before, or lies below the window.
    EspReplayed = "esp_replayed",
    /// Inbound, ESP: the ICV is wrong.
    EspForged = "esp_forged",
    /// Inbound, ESP: authentic, but its padding breaks the rules.
    EspPadding = "esp_padding",
    /// Inbound, ESP: authentic, but its next header is none of ours, or not that of the packet.
    EspNextHeader = "esp_next_header",
    /// Inbound, ESP: authentic, but the inner packet is longer than its payload, or too short.
    EspInnerLength = "esp_inner_length",
    /// Inbound, ESP: the inner source is outside what the peer claims in its handshake.
    EspClaim = "esp_claim",
    /// Inbound: a packet that came plain, with the source of a peer whose packets come by ESP.
    PlainRefused = "plain_refused",
    /// Inbound, handshake: more messages came at once than are kept.
    HandshakeOverflow = "handshake_overflow",
    /// Inbound, handshake: a message of another version, or of a type that there is not.
    HandshakeHeader = "handshake_header",
    /// Inbound, handshake: a message of a length that its type does not have.
    HandshakeLength = "handshake_length",
    /// Inbound, handshake: the first check value is wrong; the message is for another key.
    HandshakeMac1 = "handshake_mac1",
    /// Inbound, handshake: under load, and without the right cookie; it was asked for one.
    HandshakeCookie = "handshake_cookie",
    /// Inbound, handshake: under load, and too many from that address.
    HandshakeRate = "handshake_rate",
    /// Inbound, handshake: it cannot be decrypted: another network, another key, or a forgery.
    HandshakeNoise = "handshake_noise",
    /// Inbound, handshake: what it says is impossible.
    HandshakePayload = "handshake_payload",
    /// Inbound, handshake: from an identity that is not trusted here.
    HandshakeUnknownIdentity = "handshake_unknown_identity",
    /// Inbound, handshake: under no PSK that is known here, or under none where one is needed.
    PskUnknown = "psk_unknown",
    /// Inbound, handshake: no cipher that both sides take.
    HandshakeCipher = "handshake_cipher",
    /// Inbound, handshake: older than one that was confirmed: a replay, or a clock set back.
    HandshakeOld = "handshake_old",
    /// Inbound, handshake: an initiation that was answered before.
    HandshakeReplayed = "handshake_replayed",
    /// Inbound, handshake: an initiation too soon behind the one before.
    HandshakeTooSoon = "handshake_too_soon",
    /// Inbound, handshake: an answer to no initiation under way.
    HandshakeUnknownIndex = "handshake_unknown_index",
    /// Inbound: larger than any packet, or a super-packet to be cut whose checksum is wrong.
    Oversized = "oversized",
    /// Inbound: neither IPv4 nor IPv6.
    BadVersion = "bad_version",
    /// Inbound: shorter than its header.
    Truncated = "truncated",
    /// Inbound: the header says it is shorter than a header can be.
    BadHeaderLength = "bad_header_length",
    /// Inbound: the inner packet claims to be longer than the datagram.
    InnerLengthTooLong = "inner_length_too_long",
    /// Inbound: the inner packet claims to be shorter than the datagram, or than its own header.
    InnerLengthTooShort = "inner_length_too_short",
    /// Inbound: the inner header checksum is wrong.
    BadHeaderChecksum = "bad_header_checksum",
    /// Inbound: a router marked the datagram as congested, and the sender of the packet in it knows
    /// no such marks (RFC 6040 §4.2).
    UnexpectedCongestionMark = "unexpected_congestion_mark",
    /// Inbound: the outer source is no peer.
    UnknownPeer = "unknown_peer",
    /// Inbound: no lease covers the inner source.
    SourceNotLeased = "source_not_leased",
    /// Inbound: the inner source is in the own subnet.
    SourceIsLocal = "source_is_local",
    /// Inbound: the inner source belongs to another peer than the one that sent it.
    SourceOfOtherPeer = "source_of_other_peer",
    /// Inbound: the inner destination is not ours.
    WrongDestination = "wrong_destination",
    /// Inbound: the overlay device did not take the packet.
    DeviceRefused = "device_refused",
}

impl From<Refusal> for DropReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Exhausted => Self::SaExhausted,
            Refusal::Ended => Self::SaEnded,
            Refusal::Provider => Self::SealingFailed,
        }
    }
}

impl From<Fault> for DropReason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed => Self::EspMalformed,
            Fault::OtherSpi => Self::EspOtherSpi,
            Fault::Ended => Self::EspSaEnded,
            Fault::Sequence => Self::EspSequence,
            Fault::Replayed => Self::EspReplayed,
            Fault::Forged => Self::EspForged,
            Fault::Padding => Self::EspPadding,
            Fault::NextHeader => Self::EspNextHeader,
            Fault::InnerLength => Self::EspInnerLength,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_snake_case_forms_of_the_names() {
        for reason in DropReason::ALL {
            let mut snake = String::new();
            for letter in format!("{reason:?}").chars() {
                if letter.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.extend(letter.to_lowercase());
            }
            assert_eq!(reason.label(), snake);
        }
    }

    #[test]
    fn a_reason_is_its_own_place_in_the_list() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }

    #[test]
    fn operators_find_every_reason_of_encryption_explained() {
        let page = include_str!("../../../docs/operations.md");
        let first = DropReason::NoKeys as usize..=DropReason::SealingFailed as usize;
        let others = DropReason::Keepalive as usize..=DropReason::HandshakeUnknownIndex as usize;
        for place in first.chain(others) {
            let label = DropReason::ALL[place].label();
            assert!(page.contains(&format!("`{label}`")), "{label}");
        }
    }

    #[test]
    fn faults_of_esp_keep_their_names() {
        for fault in Fault::ALL {
            assert_eq!(DropReason::from(*fault).label(), fault.label());
        }
        for refusal in Refusal::ALL {
            assert_eq!(DropReason::from(*refusal).label(), refusal.label());
        }
    }
}
