//! Offloads at work: whether the kernel can, whether it is wanted.
//!
//! Tried once on the descriptors when the engine is made. Data threads read a flag per batch;
//! a thread that finds the kernel refusing after all falls back by itself and says so. Of trains
//! each thread remembers which paths refuse them ([`tunneld_core::refusals`]); what the device
//! refuses is remembered here. Either is tried again, after seconds, then minutes.
//!
//! Source: linux/if_tun.h (TUNSETOFFLOAD; USO since Linux 6.2), udp(7) (UDP_SEGMENT, UDP_GRO).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use tunneld_core::refusals::{LAST_PAUSE_NS, next_pause_ns};

use crate::clock;
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
    /// When what the device refused is tried again, and how long that was waited for.
    again_ns: [AtomicU64; Offload::ALL.len()],
    pauses_ns: [AtomicU64; Offload::ALL.len()],
    /// On how many paths trains are refused, and what the kernel said of the last one.
    paths: AtomicU32,
    path_errno: AtomicI32,
    /// How often something was switched by an operator.
    switches: AtomicU32,
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
        Self {
            states: [const { AtomicI32::new(ON) }; Offload::ALL.len()],
            again_ns: [const { AtomicU64::new(0) }; Offload::ALL.len()],
            pauses_ns: [const { AtomicU64::new(0) }; Offload::ALL.len()],
            paths: AtomicU32::new(0),
            path_errno: AtomicI32::new(0),
            switches: AtomicU32::new(0),
        }
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
            ON => match self.paths.load(Ordering::Relaxed) {
                paths @ 1.. if offload == Offload::UdpGso => {
                    let errno = self.path_errno.load(Ordering::Relaxed);
                    State::Fallback { errno: Errno::from_raw_os_error(errno), paths }
                }
                _ => State::On,
            },
            UNSUPPORTED => State::Unsupported,
            number => State::Fallback { errno: Errno::from_raw_os_error(number), paths: 0 },
        }
    }

    /// Returns whether one is at work, or is to be tried again now.
    pub(crate) fn is_on(&self, offload: Offload) -> bool {
        match self.cell(offload).load(Ordering::Relaxed) {
            ON => true,
            OFF | UNSUPPORTED => false,
            _ => clock::now_ns() >= self.again_ns[offload as usize].load(Ordering::Relaxed),
        }
    }

    /// Returns how often an operator has switched something.
    pub(crate) fn switches(&self) -> u32 {
        self.switches.load(Ordering::Relaxed)
    }

    /// Switches one on or off, on all workers; a fallback ends. Returns false where it is not
    /// supported.
    pub(crate) fn set(&self, offload: Offload, enabled: bool, workers: &[Descriptors]) -> bool {
        if self.state(offload) == State::Unsupported {
            return !enabled;
        }
        self.store(offload, if enabled { ON } else { OFF });
        self.pauses_ns[offload as usize].store(0, Ordering::Relaxed);
        if offload == Offload::UdpGso {
            self.paths.store(0, Ordering::Relaxed);
        }
        self.switches.fetch_add(1, Ordering::Relaxed);
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

    /// Notes that the device refuses one that is at work, or was tried again; reports it once.
    pub(crate) fn fall_back(&self, offload: Offload, errno: Errno, events: &Events) {
        let (number, place) = (errno.raw_os_error(), offload as usize);
        let before = self.states[place].load(Ordering::Relaxed);
        if matches!(before, OFF | UNSUPPORTED) {
            return;
        }
        let (now_ns, again_ns) = (clock::now_ns(), self.again_ns[place].load(Ordering::Relaxed));
        // After a long time without a refusal the next one is a first one.
        let paused_ns = self.pauses_ns[place].load(Ordering::Relaxed);
        let is_first = now_ns >= again_ns + LAST_PAUSE_NS;
        let pause_ns = next_pause_ns(if is_first { 0 } else { paused_ns });
        self.pauses_ns[place].store(pause_ns, Ordering::Relaxed);
        self.again_ns[place].store(now_ns + pause_ns, Ordering::Relaxed);
        let cell = &self.states[place];
        let is_new =
            cell.compare_exchange(before, number, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_new && before == ON {
            events.push(Event::OffloadLost { offload, errno, adjacency: None });
        }
    }

    /// Notes that the device took what it may have refused before.
    pub(crate) fn worked(&self, offload: Offload, events: &Events) {
        let cell = self.cell(offload);
        let before = cell.load(Ordering::Relaxed);
        if matches!(before, ON | OFF | UNSUPPORTED) {
            return;
        }
        if cell.compare_exchange(before, ON, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            events.push(Event::OffloadBack { offload });
        }
    }

    /// Notes that a thread knows of one path more that refuses trains, and reports the first.
    pub(crate) fn paths_refuse(
        &self,
        (before, after): (usize, usize),
        adjacency: &Arc<str>,
        errno: Errno,
        events: &Events,
    ) {
        self.path_errno.store(errno.raw_os_error(), Ordering::Relaxed);
        if self.change_paths(before, after) == 0 && after > before {
            let (offload, adjacency) = (Offload::UdpGso, Some(Arc::clone(adjacency)));
            events.push(Event::OffloadLost { offload, errno, adjacency });
        }
    }

    /// Notes that a thread knows of fewer paths that refuse trains, and reports the last.
    pub(crate) fn paths_accept(&self, (before, after): (usize, usize), events: &Events) {
        let paths = self.change_paths(before, after);
        if paths > 0 && paths as usize + after <= before {
            events.push(Event::OffloadBack { offload: Offload::UdpGso });
        }
    }

    /// Returns how many paths there were. A switch in between has set the number to 0.
    fn change_paths(&self, before: usize, after: usize) -> u32 {
        let changed = |paths: u32| {
            let paths = paths as usize + after;
            u32::try_from(paths.saturating_sub(before)).ok()
        };
        self.paths
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed)
            .unwrap_or_else(|paths| paths)
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
