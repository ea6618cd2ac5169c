//! Why a packet went no further. A drop is a counted fact, not an error.
//!
//! The name in snake case is at once the counter's label, the log field and the test's oracle.

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
    /// Inbound: more messages of the encapsulation itself came at once than are kept.
    ControlOverflow = "control_overflow",
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
}
