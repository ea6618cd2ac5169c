//! Which of several sockets a packet leaves by: always the same one for a flow, to keep its order.
//!
//! Path of a packet: `outbound` → **`flow`** → `batch`.
//! Where the underlay has several ways, it tells flows apart by their outer ports; with a source
//! port per socket, those inside a tunnel are told apart too.
//!
//! Source: RFC 7348 §5 (source port from a hash of the inner headers), RFC 7424 §2 (only what all
//! fragments have in common may be hashed).

use tunneld_wire::ip;

/// An odd number whose multiples spread well. Source: Knuth, The Art of Computer Programming 3, §6.4.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the number of the path, below `paths`, for the flow of this packet.
pub fn path(header: &ip::Header, packet: &[u8], paths: usize) -> usize {
    if paths <= 1 {
        return 0;
    }
    let addresses = match header {
        ip::Header::V4(header) => {
            u64::from(header.source.to_bits()) << 32 | u64::from(header.destination.to_bits())
        }
        ip::Header::V6(header) => {
            let halves = |bits: u128| (bits >> 64) as u64 ^ bits as u64;
            halves(header.source.to_bits()).rotate_left(32) ^ halves(header.destination.to_bits())
        }
    };
    let ports = ports(header, packet) << 8 | u64::from(header.protocol());
    let hash = (addresses ^ ports.wrapping_mul(SPREAD)).wrapping_mul(SPREAD) >> 32;
    ((hash * paths as u64) >> 32) as usize
}

/// Returns both ports, where every packet of the flow has them.
fn ports(header: &ip::Header, packet: &[u8]) -> u64 {
    let has_ports = matches!(header.protocol(), ip::PROTOCOL_TCP | ip::PROTOCOL_UDP);
    if !has_ports || header.is_fragment() {
        return 0;
    }
    let ports = packet.get(header.header_len()..).and_then(<[u8]>::first_chunk::<4>);
    ports.map_or(0, |ports| u32::from_be_bytes(*ports).into())
}
