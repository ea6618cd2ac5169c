//! Packets that waited for keys: what becomes of them when there are some, or will be none.

use tunneld_wire::icmp;
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;

use super::{Outbound, View};
use crate::drop_reason::DropReason;
use crate::fib::Fib;

impl Outbound {
    /// Takes a packet once more that was left to wait: as [`handle`](Self::handle) does, but it came
    /// in once.
    pub fn again(&mut self, fib: &Fib, vnet: VnetHeader, packet: &[u8], now_ns: u64) {
        if let Err(reason) = self.forward(fib, vnet, packet, now_ns) {
            self.counters.drops(reason).add(1);
        }
    }

    /// Drops a packet that waited for keys in vain, and tells its sender.
    #[cold]
    pub fn give_up(&mut self, fib: &Fib, packet: &[u8], now_ns: u64) {
        if let Some(settings) = fib.settings() {
            let view = View { fib, settings, now_ns };
            self.answer(view, icmp::Error::NoRoute, packet);
        }
        self.counters.drops(DropReason::NoKeys).add(1);
    }
}
