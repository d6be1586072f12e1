//! A super-segment into the packets it stands for, as the kernel's GSO does (net/ipv4/tcp_offload.c tcp_gso_segment,
//! net/ipv4/udp_offload.c __udp_gso_segment), and checksums left undone completed.

use crate::core::frame::{Offload, SegmentKind};
use crate::wire::checksum::{finish, fold, pseudo_of, sum};
use crate::wire::virtio::{TCP, UDP, headers_len, transport};

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Why a super-segment cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Headers missing, cut off or of another protocol than the kind says.
    Headers,
    /// Segment size zero.
    SegmentSize,
    /// The output buffer is smaller than one packet.
    Room,
}

/// The packets of one frame, emitted one after the other into buffers of the caller's.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    offset: usize,
    headers: usize,
    protocol: u8,
    segment_size: usize,
    /// Payload bytes already emitted.
    done: usize,
    index: u32,
    /// The sum of addresses and protocol, shared by all segments.
    pseudo: u16,
    finished: bool,
}

impl<'a> Segments<'a> {
    /// Prepares to split `packet`. A frame that is no super-segment yields itself, with its checksum completed.
    pub fn new(packet: &'a [u8], offload: Offload) -> Result<Self, Malformed> {
        if offload.kind == SegmentKind::None && !offload.partial_checksum {
            return Ok(Self {
                packet,
                offset: 0,
                headers: 0,
                protocol: 0,
                segment_size: packet.len(),
                done: 0,
                index: 0,
                pseudo: 0,
                finished: false,
            });
        }
        let (offset, protocol) = transport(packet).ok_or(Malformed::Headers)?;
        let headers = headers_len(packet).ok_or(Malformed::Headers)?;
        let segment_size = match (offload.kind, protocol) {
            (SegmentKind::None, _) => (packet.len() - headers).max(1),
            (SegmentKind::Tcp, TCP) | (SegmentKind::Udp, UDP) => usize::from(offload.segment_size),
            _ => return Err(Malformed::Headers),
        };
        if segment_size == 0 {
            return Err(Malformed::SegmentSize);
        }
        let pseudo = pseudo_of(packet, 0, protocol);
        Ok(Self { packet, offset, headers, protocol, segment_size, done: 0, index: 0, pseudo, finished: false })
    }

    /// Writes the next packet to the front of `out` and returns its length; None after the last one.
    pub fn next_into(&mut self, out: &mut [u8]) -> Result<Option<usize>, Malformed> {
        if self.finished {
            return Ok(None);
        }
        let payload = &self.packet[self.headers + self.done..];
        let size = payload.len().min(self.segment_size);
        let len = self.headers + size;
        let out = out.get_mut(..len).ok_or(Malformed::Room)?;
        out[..self.headers].copy_from_slice(&self.packet[..self.headers]);
        out[self.headers..].copy_from_slice(&payload[..size]);
        let last = size == payload.len();
        self.finished = last;
        if self.headers > 0 {
            self.patch_ip(out);
            self.patch_transport(out, last);
        }
        self.done += size;
        self.index += 1;
        Ok(Some(len))
    }

    fn patch_ip(&self, out: &mut [u8]) {
        let len = out.len();
        if out[0] >> 4 == 6 {
            out[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            return;
        }
        let identification = u16::from_be_bytes([out[4], out[5]]).wrapping_add(self.index as u16);
        out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        out[4..6].copy_from_slice(&identification.to_be_bytes());
        out[10..12].fill(0);
        let checksum = finish(sum(&out[..self.offset]));
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn patch_transport(&self, out: &mut [u8], last: bool) {
        let transport = &mut out[self.offset..];
        let position = if self.protocol == TCP {
            let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            transport[4..8].copy_from_slice(&sequence.wrapping_add(self.done as u32).to_be_bytes());
            if !last {
                transport[13] &= !(TCP_FIN | TCP_PSH);
            }
            if self.index > 0 {
                transport[13] &= !TCP_CWR;
            }
            16
        } else {
            let len = transport.len() as u16;
            transport[4..6].copy_from_slice(&len.to_be_bytes());
            6
        };
        transport[position..position + 2].fill(0);
        let checksum = match finish(fold(u64::from(self.pseudo) + transport.len() as u64 + u64::from(sum(transport)))) {
            0 if self.protocol == UDP => 0xffff,
            value => value,
        };
        transport[position..position + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{checksum_is_right, tcp6, udp6};
    use super::*;

    fn all(packet: &[u8], offload: Offload) -> Vec<Vec<u8>> {
        let mut segments = Segments::new(packet, offload).unwrap();
        let mut out = vec![0; 70_000];
        let mut packets = Vec::new();
        while let Some(len) = segments.next_into(&mut out).unwrap() {
            packets.push(out[..len].to_vec());
        }
        packets
    }

    #[test]
    fn tcp_segments_equal_packets_made_one_by_one() {
        let payload: Vec<u8> = (0..3001u32).map(|i| i as u8).collect();
        let whole = tcp6(u32::MAX - 5, &payload, 0x99);
        let offload = Offload { kind: SegmentKind::Tcp, segment_size: 1000, partial_checksum: true };
        let expected = [
            tcp6(u32::MAX - 5, &payload[..1000], 0x90),
            tcp6(994, &payload[1000..2000], 0x10),
            tcp6(1994, &payload[2000..3000], 0x10),
            tcp6(2994, &payload[3000..], 0x19),
        ];
        assert_eq!(all(&whole, offload), expected);
    }

    #[test]
    fn udp_segments_are_datagrams() {
        let payload = [9; 250];
        let offload = Offload { kind: SegmentKind::Udp, segment_size: 100, partial_checksum: true };
        assert_eq!(all(&udp6(&payload), offload), [udp6(&[9; 100]), udp6(&[9; 100]), udp6(&[9; 50])]);
    }

    #[test]
    fn partial_checksum_is_completed() {
        for whole in [tcp6(1, &[], 0x10), udp6(&[3; 77])] {
            let mut packet = whole.clone();
            let position = if packet[6] == TCP { 56 } else { 46 };
            packet[position..position + 2].copy_from_slice(&[1, 2]);
            let packets = all(&packet, Offload { partial_checksum: true, ..Offload::default() });
            assert_eq!(packets, [whole]);
            assert!(checksum_is_right(&packets[0]));
        }
    }

    #[test]
    fn ordinary_packets_pass_untouched() {
        let packet = [0x60, 1, 2, 3];
        assert_eq!(all(&packet, Offload::default()), [packet.to_vec()]);
    }

    #[test]
    fn nonsense_is_refused() {
        let offload = Offload { kind: SegmentKind::Tcp, segment_size: 1000, partial_checksum: true };
        assert_eq!(Segments::new(&udp6(&[1]), offload).unwrap_err(), Malformed::Headers);
        assert_eq!(Segments::new(&[0x60; 30], offload).unwrap_err(), Malformed::Headers);
        let zero = Offload { segment_size: 0, ..offload };
        assert_eq!(Segments::new(&tcp6(1, &[1], 0x10), zero).unwrap_err(), Malformed::SegmentSize);
    }
}
