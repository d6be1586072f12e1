//! A super-segment into smaller super-segments, for a line on which the whole would keep others waiting too long.

use crate::core::frame::{Offload, SegmentKind};
use crate::wire::checksum::pseudo_of;
use crate::wire::virtio::{TCP, UDP, headers_len, transport};

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const IPV6_HEADER: usize = 40;

/// The pieces of one frame, as long as `longest` allows but of one segment at least. A frame that is short enough, or
/// that is not an IPv6 super-segment, is its own only piece.
#[derive(Debug)]
pub struct Pieces<'a> {
    packet: &'a [u8],
    offload: Offload,
    headers: usize,
    /// Payload bytes of a piece, a multiple of the segment size.
    size: usize,
    done: usize,
    finished: bool,
}

impl<'a> Pieces<'a> {
    pub fn new(packet: &'a [u8], offload: Offload, longest: usize) -> Self {
        let mut pieces = Self { packet, offload, headers: 0, size: packet.len(), done: 0, finished: false };
        let expected = match offload.kind {
            SegmentKind::None => return pieces,
            SegmentKind::Tcp => TCP,
            SegmentKind::Udp => UDP,
        };
        let segment = usize::from(offload.segment_size);
        if packet.len() > longest
            && segment > 0
            && transport(packet) == Some((IPV6_HEADER, expected))
            && let Some(headers) = headers_len(packet)
        {
            pieces.headers = headers;
            pieces.size = (longest.saturating_sub(headers) / segment).max(1) * segment;
        }
        pieces
    }

    /// Writes the next piece into `out`, which is emptied before. None after the last one.
    pub fn next_into(&mut self, out: &mut Vec<u8>) -> Option<Offload> {
        if self.finished {
            return None;
        }
        let payload = &self.packet[self.headers + self.done..];
        let size = payload.len().min(self.size);
        let last = size == payload.len();
        self.finished = last;
        out.clear();
        out.reserve_exact(self.headers + size);
        out.extend_from_slice(&self.packet[..self.headers]);
        out.extend_from_slice(&payload[..size]);
        if last && self.done == 0 {
            return Some(self.offload);
        }
        self.patch(out, last);
        self.done += size;
        if size > usize::from(self.offload.segment_size) {
            return Some(self.offload);
        }
        Some(Offload { kind: SegmentKind::None, segment_size: 0, ..self.offload })
    }

    fn patch(&self, out: &mut [u8], last: bool) {
        let len = out.len() - IPV6_HEADER;
        out[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        let protocol = out[6];
        let pseudo = pseudo_of(out, len, protocol);
        let transport = &mut out[IPV6_HEADER..];
        let position = if protocol == TCP {
            let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            transport[4..8].copy_from_slice(&sequence.wrapping_add(self.done as u32).to_be_bytes());
            if !last {
                transport[13] &= !(TCP_FIN | TCP_PSH);
            }
            if self.done > 0 {
                transport[13] &= !TCP_CWR;
            }
            16
        } else {
            transport[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            6
        };
        // Super-segments always have a partial checksum: the sum of what the transport header does not show.
        transport[position..position + 2].copy_from_slice(&pseudo.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{tcp6, udp6};
    use super::super::split::Segments;
    use super::*;

    fn packets(packet: &[u8], offload: Offload) -> Vec<Vec<u8>> {
        let mut segments = Segments::new(packet, offload).unwrap();
        let mut out = vec![0; 70_000];
        let mut packets = Vec::new();
        while let Some(len) = segments.next_into(&mut out).unwrap() {
            packets.push(out[..len].to_vec());
        }
        packets
    }

    fn pieces(packet: &[u8], offload: Offload, longest: usize) -> Vec<(Vec<u8>, Offload)> {
        let mut pieces = Pieces::new(packet, offload, longest);
        let mut out = Vec::new();
        std::iter::from_fn(|| pieces.next_into(&mut out).map(|offload| (out.clone(), offload))).collect()
    }

    proptest! {
        #[test]
        fn pieces_stand_for_the_same_packets(
            payload in prop::collection::vec(any::<u8>(), 2..6000),
            segment_size in 1u16..1440,
            longest in 0usize..7000,
            sequence in any::<u32>(),
            flags in any::<u8>(),
            tcp in any::<bool>(),
        ) {
            prop_assume!(payload.len() > usize::from(segment_size));
            let kind = if tcp { SegmentKind::Tcp } else { SegmentKind::Udp };
            let offload = Offload { kind, segment_size, partial_checksum: true };
            let packet = if tcp { tcp6(sequence, &payload, flags) } else { udp6(&payload) };
            let cut = pieces(&packet, offload, longest);
            let headers = if tcp { 60 } else { 48 };
            for (piece, offload) in &cut {
                prop_assert!(piece.len() <= longest.max(headers + usize::from(segment_size)));
                prop_assert_eq!(offload.kind == SegmentKind::None, piece.len() - headers <= usize::from(segment_size));
            }
            let again: Vec<_> = cut.iter().flat_map(|(piece, offload)| packets(piece, *offload)).collect();
            prop_assert_eq!(again, packets(&packet, offload));
        }
    }

    #[test]
    fn what_is_short_or_unknown_stays_whole() {
        let offload = Offload { kind: SegmentKind::Tcp, segment_size: 1000, partial_checksum: true };
        let packet = tcp6(1, &[1; 3000], 0x10);
        assert_eq!(pieces(&packet, offload, packet.len()), [(packet.clone(), offload)]);
        assert_eq!(pieces(&packet, Offload::default(), 100), [(packet, Offload::default())]);
        let udp = udp6(&[1; 3000]);
        assert_eq!(pieces(&udp, offload, 100), [(udp, offload)]);
    }
}
