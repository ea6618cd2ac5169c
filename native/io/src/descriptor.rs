//! Duplicates of the descriptors that Python opened.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::getsockname;
use tunneld_core::encapsulation::Via;

use crate::error::Error;

/// Numbers of the UDP sockets of a worker. Of each family the first receives, and sends where it
/// is the only one; the others only send. So it is of those for ESP, which are on a port of their own
/// and of which one sends.
#[derive(Debug, Clone, Default)]
pub struct UnderlaySockets {
    /// Over IPv4; may be empty.
    pub ipv4: Vec<RawFd>,
    /// Over IPv6; may be empty.
    pub ipv6: Vec<RawFd>,
    /// Over IPv4, bound elsewhere but to the ports of those that send: for peers set aside. For
    /// each siding one of each port, siding after siding.
    pub ipv4_sidings: Vec<RawFd>,
    /// The same over IPv6.
    pub ipv6_sidings: Vec<RawFd>,
    /// Over IPv4, for ESP.
    pub esp_ipv4: Vec<RawFd>,
    /// Over IPv6, for ESP.
    pub esp_ipv6: Vec<RawFd>,
    /// Over IPv4, for ESP to peers set aside: one a siding.
    pub esp_ipv4_sidings: Vec<RawFd>,
    /// The same over IPv6.
    pub esp_ipv6_sidings: Vec<RawFd>,
}

impl UnderlaySockets {
    /// Returns whether there is no socket at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty() && !self.has_esp()
    }

    /// Returns whether there is a socket for ESP.
    pub(crate) fn has_esp(&self) -> bool {
        !(self.esp_ipv4.is_empty() && self.esp_ipv6.is_empty())
    }
}

/// The families of a port: IPv4 and IPv6.
pub(crate) const FAMILIES: usize = 2;

/// What arrives at a socket, by its place among the families of both ports.
const VIAS: [Via; 2 * FAMILIES] = [Via::Plain, Via::Plain, Via::Esp, Via::Esp];

/// The UDP sockets of a worker: those over IPv4 and those over IPv6, then the same for ESP.
pub(crate) struct Underlay {
    families: [Vec<OwnedFd>; 2 * FAMILIES],
    /// Those for peers set aside; with the one thread that sends, once it runs.
    sidings: [Vec<OwnedFd>; 2 * FAMILIES],
}

impl Underlay {
    pub(crate) fn duplicate(numbers: &UnderlaySockets) -> Result<Self, Error> {
        let duplicates = |numbers: &[RawFd]| {
            numbers.iter().map(|number| duplicate("UDP", *number)).collect::<Result<_, _>>()
        };
        Ok(Self {
            families: [
                duplicates(&numbers.ipv4)?,
                duplicates(&numbers.ipv6)?,
                duplicates(&numbers.esp_ipv4)?,
                duplicates(&numbers.esp_ipv6)?,
            ],
            sidings: [
                duplicates(&numbers.ipv4_sidings)?,
                duplicates(&numbers.ipv6_sidings)?,
                duplicates(&numbers.esp_ipv4_sidings)?,
                duplicates(&numbers.esp_ipv6_sidings)?,
            ],
        })
    }

    /// Returns duplicates of all but the sidings.
    fn again(&self) -> Result<Self, Error> {
        let [ipv4, ipv6, esp_ipv4, esp_ipv6] =
            self.families.each_ref().map(|family| family.iter().map(AsRawFd::as_raw_fd).collect());
        let sockets = UnderlaySockets { ipv4, ipv6, esp_ipv4, esp_ipv6, ..Default::default() };
        Self::duplicate(&sockets)
    }

    /// Hands over the sidings.
    pub(crate) fn take_sidings(&mut self) -> [Vec<OwnedFd>; 2 * FAMILIES] {
        std::mem::take(&mut self.sidings)
    }

    /// Takes the sidings that another had.
    pub(crate) fn give_sidings(&mut self, sidings: [Vec<OwnedFd>; 2 * FAMILIES]) {
        self.sidings = sidings;
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        self.families.iter().flatten()
    }

    /// Returns the sockets that receive: at most one of each family and port.
    pub(crate) fn receiving(&self) -> impl Iterator<Item = &OwnedFd> {
        self.families.iter().filter_map(|family| family.first())
    }

    /// Returns what arrives at each of those.
    pub(crate) fn vias(&self) -> impl Iterator<Item = Via> {
        VIAS.into_iter().zip(&self.families).filter(|(_, it)| !it.is_empty()).map(|(via, _)| via)
    }

    /// Returns the sockets that ESP leaves by, over IPv4 and over IPv6.
    pub(crate) fn for_esp(&self) -> [Option<&OwnedFd>; FAMILIES] {
        std::array::from_fn(|family| sending(&self.families[FAMILIES + family]).first())
    }

    /// Returns how many sockets flows are spread over, in the family that has more of them; at least
    /// one, as a batch has it.
    pub(crate) fn paths(&self) -> usize {
        let plain = self.families[..FAMILIES].iter();
        plain.map(|family| sending(family).len()).max().unwrap_or(0).max(1)
    }

    /// Returns the socket for each queue of a batch, where the family has any.
    pub(crate) fn by_queue(&self) -> Vec<Option<&OwnedFd>> {
        let plain = self.families[..FAMILIES].iter().flat_map(|family| {
            let sockets = sending(family);
            (0..self.paths()).map(|path| sockets.get(path % sockets.len().max(1)))
        });
        let esp = self.families[FAMILIES..].iter();
        plain.chain(self.for_esp()).chain(esp.map(|family| family.first())).collect()
    }

    /// Returns the address of this host in each family that there is on a port.
    pub(crate) fn addresses(&self, via: Via) -> [Option<IpAddr>; FAMILIES] {
        std::array::from_fn(|family| {
            let receiving = self.families[first_of(via) + family].first()?;
            let bound = SocketAddr::try_from(getsockname(receiving).ok()?).ok()?;
            Some(bound.ip()).filter(|address| !address.is_unspecified())
        })
    }

    /// Returns for each family of a port the sockets of each siding, one for each that sends.
    pub(crate) fn sidings(&self, via: Via) -> [Vec<&[OwnedFd]>; FAMILIES] {
        std::array::from_fn(|family| {
            let place = first_of(via) + family;
            let each = sending(&self.families[place]).len().max(1);
            self.sidings[place].chunks_exact(each).collect()
        })
    }
}

/// Returns the place of a port's first family.
const fn first_of(via: Via) -> usize {
    match via {
        Via::Plain => 0,
        Via::Esp => FAMILIES,
    }
}

/// Returns the sockets of a family that send.
fn sending(family: &[OwnedFd]) -> &[OwnedFd] {
    if family.len() > 1 { &family[1..] } else { family }
}

/// The raw sockets ICMP errors leave by. Where there is none, nothing is answered.
pub(crate) struct Icmp {
    pub(crate) ipv4: Option<OwnedFd>,
    pub(crate) ipv6: Option<OwnedFd>,
}

impl Icmp {
    pub(crate) fn duplicate(ipv4: Option<RawFd>, ipv6: Option<RawFd>) -> Result<Self, Error> {
        let own = |role, number: Option<RawFd>| number.map(|number| duplicate(role, number));
        Ok(Self { ipv4: own("ICMP", ipv4).transpose()?, ipv6: own("ICMPv6", ipv6).transpose()? })
    }

    fn again(&self) -> Result<Self, Error> {
        let number = |socket: &Option<OwnedFd>| socket.as_ref().map(AsRawFd::as_raw_fd);
        Self::duplicate(number(&self.ipv4), number(&self.ipv6))
    }
}

/// What a data thread reads and writes.
pub(crate) struct Descriptors {
    /// The worker's queue of the overlay device.
    pub(crate) tun: OwnedFd,
    /// Its UDP sockets.
    pub(crate) underlay: Underlay,
    /// The raw sockets of all.
    pub(crate) icmp: Icmp,
}

impl Descriptors {
    /// Returns duplicates of all.
    pub(crate) fn again(&self) -> Result<Self, Error> {
        Ok(Self {
            tun: duplicate("TUN", self.tun.as_raw_fd())?,
            underlay: self.underlay.again()?,
            icmp: self.icmp.again()?,
        })
    }
}

/// Returns a duplicate of `number` that is closed on exec, and makes it non-blocking.
///
/// Whether it blocks belongs to the open file, so it changes for the caller's descriptor too.
pub(crate) fn duplicate(role: &'static str, number: RawFd) -> Result<OwnedFd, Error> {
    let fail = |errno| Error::Descriptor { role, number, errno };
    if number < 0 {
        return Err(fail(Errno::BADF));
    }
    // SAFETY: the borrow ends with this function, and the caller keeps its descriptors open
    // while it hands them over. A number that is not open makes the kernel answer EBADF.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    let own = fcntl_dupfd_cloexec(given, 3).map_err(fail)?;
    let flags = fcntl_getfl(&own).map_err(fail)?;
    fcntl_setfl(&own, flags | OFlags::NONBLOCK).map_err(fail)?;
    Ok(own)
}
