//! What the kernel does for many packets at once, by name, and how each of it may stand.
//!
//! Source: linux/if_tun.h (TUNSETOFFLOAD), udp(7) (UDP_SEGMENT, UDP_GRO).

use std::fmt;

use rustix::io::Errno;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// The device hands over TCP super-packets.
    TunTso,
    /// The device hands over UDP super-packets.
    TunUso,
    /// Trains of datagrams are sent in one piece.
    UdpGso,
    /// Datagrams are received in trains.
    UdpGro,
    /// Arriving TCP segments become super-packets.
    CoalesceTcp,
    /// Arriving UDP datagrams become super-packets.
    CoalesceUdp,
}

impl Offload {
    /// All of them, in the order of a packet's way.
    pub const ALL: [Self; 6] = [
        Self::TunTso,
        Self::TunUso,
        Self::UdpGso,
        Self::UdpGro,
        Self::CoalesceTcp,
        Self::CoalesceUdp,
    ];

    /// Returns the offload of that name.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|offload| offload.label() == label)
    }

    /// Returns the name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TunTso => "tun_tso",
            Self::TunUso => "tun_uso",
            Self::UdpGso => "udp_gso",
            Self::UdpGro => "udp_gro",
            Self::CoalesceTcp => "coalesce_tcp",
            Self::CoalesceUdp => "coalesce_udp",
        }
    }
}

/// How one of them stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Switched off.
    Off,
    /// At work.
    On,
    /// This kernel, or this kind of descriptor, cannot do it.
    Unsupported,
    /// The kernel refuses it, with this error, until it is tried again.
    Fallback {
        /// What the kernel said last.
        errno: Errno,
        /// How many peers' paths that is about; 0: the device.
        paths: u32,
    },
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On => f.write_str("on"),
            Self::Unsupported => f.write_str("unsupported"),
            Self::Fallback { errno, paths: 0 } => write!(f, "fallback: {errno}"),
            Self::Fallback { errno, paths: 1 } => write!(f, "fallback: {errno}, to 1 peer"),
            Self::Fallback { errno, paths } => write!(f, "fallback: {errno}, to {paths} peers"),
        }
    }
}
