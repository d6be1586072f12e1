//! Packets for the tests of this room.

use crate::wire::checksum::{self, add, pseudo_of, sum};

/// An IPv6 TCP segment from port 1000 to 2000 with a right checksum.
pub fn tcp6(sequence: u32, payload: &[u8], flags: u8) -> Vec<u8> {
    let mut packet = ipv6(6, 20 + payload.len());
    packet.extend([3, 232, 7, 208]);
    packet.extend(sequence.to_be_bytes());
    packet.extend([0, 0, 0, 9, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    packet.extend(payload);
    finish(&mut packet, 56);
    packet
}

/// An IPv6 UDP datagram from port 1000 to 2000 with a right checksum.
pub fn udp6(payload: &[u8]) -> Vec<u8> {
    let mut packet = ipv6(17, 8 + payload.len());
    packet.extend([3, 232, 7, 208]);
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    finish(&mut packet, 46);
    packet
}

fn ipv6(next_header: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((len as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet
}

/// Writes the transport checksum at `position`.
pub fn finish(packet: &mut [u8], position: usize) {
    packet[position..position + 2].fill(0);
    let total = add(pseudo_of(packet, packet.len() - 40, packet[6]), sum(&packet[40..]));
    let checksum = match checksum::finish(total) {
        0 if packet[6] == 17 => 0xffff,
        value => value,
    };
    packet[position..position + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether the transport checksum of a whole packet is right.
pub fn checksum_is_right(packet: &[u8]) -> bool {
    let (offset, protocol) = crate::wire::virtio::transport(packet).unwrap();
    add(pseudo_of(packet, packet.len() - offset, protocol), sum(&packet[offset..])) == 0xffff
}
