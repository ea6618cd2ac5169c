//! Offloads at work: whether the kernel can, whether it is wanted.
//!
//! Tried once on the descriptors when the engine is made. Data threads read a flag per batch;
//! a thread that finds the kernel refusing after all falls back by itself and says so.
//!
//! Source: linux/if_tun.h (TUNSETOFFLOAD; USO since Linux 6.2), udp(7) (UDP_SEGMENT, UDP_GRO).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

use crate::descriptor::Descriptors;
use crate::event::{Event, Events};
use crate::offload::{Offload, State};

const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUN_CSUM: libc::c_uint = 0x01;
const TUN_TSO: libc::c_uint = 0x02 | 0x04;
const TUN_TSO_ECN: libc::c_uint = 0x08;
/// Both or neither: the kernel takes no half.
const TUN_USO: libc::c_uint = 0x20 | 0x40;

const OFF: i32 = 0;
const ON: i32 = -1;
const UNSUPPORTED: i32 = -2;

/// The states, shared by the control side and all data threads. Above zero: an error number.
#[derive(Debug)]
pub(crate) struct Offloads {
    states: [AtomicI32; Offload::ALL.len()],
}

impl Offloads {
    /// Tries everything on the descriptors of every worker, and switches on what works on all.
    pub(crate) fn probe(workers: &[Descriptors]) -> Self {
        let this = Self::all_on();
        let works = |set: &dyn Fn(&Descriptors) -> Result<(), Errno>| {
            workers.iter().all(|descriptors| set(descriptors).is_ok())
        };
        let tso = works(&|worker| set_tun(&worker.tun, TUN_CSUM | TUN_TSO));
        let uso = tso && works(&|worker| set_tun(&worker.tun, TUN_CSUM | TUN_TSO | TUN_USO));
        let gso = works(&|worker| {
            worker.underlay.all().try_for_each(|socket| set_udp(socket, libc::UDP_SEGMENT, 0))
        });
        let gro = works(&|worker| {
            worker.underlay.receiving().try_for_each(|socket| set_udp(socket, libc::UDP_GRO, 1))
        });
        let found = [tso, uso, gso, gro, tso, uso];
        for (offload, works) in Offload::ALL.into_iter().zip(found) {
            if !works {
                this.store(offload, UNSUPPORTED);
            }
        }
        this.apply_to_devices(workers);
        this
    }

    /// Returns them as they are where everything works.
    pub(crate) const fn all_on() -> Self {
        Self { states: [const { AtomicI32::new(ON) }; Offload::ALL.len()] }
    }

    fn cell(&self, offload: Offload) -> &AtomicI32 {
        &self.states[offload as usize]
    }

    fn store(&self, offload: Offload, state: i32) {
        self.cell(offload).store(state, Ordering::Relaxed);
    }

    pub(crate) fn state(&self, offload: Offload) -> State {
        match self.cell(offload).load(Ordering::Relaxed) {
            OFF => State::Off,
            ON => State::On,
            UNSUPPORTED => State::Unsupported,
            number => State::Fallback(Errno::from_raw_os_error(number)),
        }
    }

    pub(crate) fn is_on(&self, offload: Offload) -> bool {
        self.cell(offload).load(Ordering::Relaxed) == ON
    }

    /// Switches one on or off, on all workers; a fallback ends. Returns false where it is not
    /// supported.
    pub(crate) fn set(&self, offload: Offload, enabled: bool, workers: &[Descriptors]) -> bool {
        if self.state(offload) == State::Unsupported {
            return !enabled;
        }
        self.store(offload, if enabled { ON } else { OFF });
        match offload {
            Offload::TunTso | Offload::TunUso => self.apply_to_devices(workers),
            Offload::UdpGro => {
                for socket in workers.iter().flat_map(|worker| worker.underlay.receiving()) {
                    // It was accepted when it was tried; what is received is split either way.
                    let _done = set_udp(socket, libc::UDP_GRO, i32::from(enabled));
                }
            }
            Offload::UdpGso | Offload::CoalesceTcp | Offload::CoalesceUdp => {}
        }
        true
    }

    fn apply_to_devices(&self, workers: &[Descriptors]) {
        let mut mask = 0;
        if self.is_on(Offload::TunTso) {
            mask |= TUN_CSUM | TUN_TSO;
        }
        if self.is_on(Offload::TunUso) {
            mask |= TUN_CSUM | TUN_USO;
        }
        let ecn = if mask & TUN_TSO != 0 { TUN_TSO_ECN } else { 0 };
        for worker in workers {
            // Without ECN the kernel itself segments super-packets that use it. What was accepted
            // when it was tried is accepted again.
            let _done = set_tun(&worker.tun, mask | ecn).or_else(|_| set_tun(&worker.tun, mask));
        }
    }

    /// Notes that the kernel refuses one that is at work, and reports it once.
    pub(crate) fn fall_back(&self, offload: Offload, errno: Errno, events: &Events) {
        let number = errno.raw_os_error();
        let cell = self.cell(offload);
        if cell.compare_exchange(ON, number, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            events.push(Event::OffloadLost { offload, errno });
        }
    }
}

fn set_tun(queue: &OwnedFd, mask: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: the request takes its argument by value and writes to no memory of ours.
    let result =
        unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(mask)) };
    checked(result)
}

fn set_udp(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const value).cast();
    // SAFETY: `value` points to `len` bytes that live until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, option, value, len) };
    checked(result)
}

fn checked(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
