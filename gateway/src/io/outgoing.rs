//! Plaintext for one session, collected while a vector is read: many packets, one record.

use crate::core::frame::{MAX_PACKET, Offload, SegmentKind};
use crate::core::iphttps::Format;
use crate::core::segments::split::Segments;
use crate::io::scratch::RUN_LEN;
use crate::wire::ipv6;
use crate::wire::segment_header::{MAX_SEGMENT_SIZE, SegmentHeader};
use crate::wire::virtio::headers_len;

/// Why a frame cannot travel through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unframeable;

/// Framed packets, contiguous.
#[derive(Debug)]
pub struct Run {
    buffer: Box<[u8]>,
    end: usize,
    packets: u64,
}

impl Default for Run {
    fn default() -> Self {
        Self { buffer: vec![0; RUN_LEN].into_boxed_slice(), end: 0, packets: 0 }
    }
}

impl Run {
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.end]
    }

    /// Packets in it, super-segments counted by their segments.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    pub fn clear(&mut self) {
        (self.end, self.packets) = (0, 0);
    }

    /// Whether any frame still fits, split or whole: a super-segment of the smallest segments grows by its headers, and
    /// is bounded by what one run holds when empty.
    pub fn has_room(&self) -> bool {
        self.buffer.len() - self.end >= SegmentHeader::LEN + MAX_PACKET
    }

    /// Where the next packet is best read to: `commit` then frames it without copying. For a run that has room.
    pub fn slot(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end + SegmentHeader::LEN..]
    }

    /// The packet that lies at the front of `slot`.
    pub fn slot_packet(&self, len: usize) -> &[u8] {
        &self.buffer[self.end + SegmentHeader::LEN..][..len]
    }

    /// Takes the packet in `slot` in, behind a segment header.
    pub fn commit(&mut self, len: usize, offload: Offload) -> Result<(), Unframeable> {
        let packet = self.end + SegmentHeader::LEN;
        let offload = normal(&self.buffer[packet..packet + len], offload)?;
        self.packets += segments(&self.buffer[packet..packet + len], offload);
        let header = &mut self.buffer[self.end..packet];
        SegmentHeader::from_offload(&offload).emit(header.try_into().map_err(|_| Unframeable)?);
        self.end = packet + len;
        Ok(())
    }

    /// Copies a frame in. On an error nothing was added.
    pub fn append(&mut self, packet: &[u8], offload: Offload, format: Format) -> Result<(), Unframeable> {
        if format == Format::Segments {
            let start = self.end + SegmentHeader::LEN;
            let slot = self.buffer.get_mut(start..start + packet.len()).ok_or(Unframeable)?;
            slot.copy_from_slice(packet);
            return self.commit(packet.len(), offload);
        }
        let start = (self.end, self.packets);
        let result = self.split(packet, offload);
        if result.is_err() {
            (self.end, self.packets) = start;
        }
        result
    }

    /// The frames in it, each with its offload.
    pub fn frames(&self, format: Format) -> impl Iterator<Item = (&[u8], Offload)> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let mut offload = Offload::default();
            if format == Format::Segments {
                let (header, behind) = rest.split_first_chunk::<{ SegmentHeader::LEN }>()?;
                offload = SegmentHeader::parse(header).ok()?.offload();
                rest = behind;
            }
            let payload = rest.get(4..6)?;
            let len = ipv6::HEADER_LEN + usize::from(u16::from_be_bytes([payload[0], payload[1]]));
            let (packet, behind) = rest.split_at_checked(len)?;
            rest = behind;
            Some((packet, offload))
        })
    }

    fn split(&mut self, packet: &[u8], offload: Offload) -> Result<(), Unframeable> {
        let mut segments = Segments::new(packet, offload).map_err(|_| Unframeable)?;
        while let Some(len) = segments.next_into(&mut self.buffer[self.end..]).map_err(|_| Unframeable)? {
            self.end += len;
            self.packets += 1;
        }
        Ok(())
    }
}

/// The offload as the peer accepts it: a super-segment has more than one segment, and none larger than allowed.
fn normal(packet: &[u8], offload: Offload) -> Result<Offload, Unframeable> {
    if offload.kind == SegmentKind::None {
        return Ok(offload);
    }
    let headers = headers_len(packet).ok_or(Unframeable)?;
    if packet.len() - headers <= usize::from(offload.segment_size) {
        return Ok(Offload { kind: SegmentKind::None, segment_size: 0, ..offload });
    }
    if offload.segment_size > MAX_SEGMENT_SIZE { Err(Unframeable) } else { Ok(offload) }
}

/// Packets that a frame stands for.
pub fn segments(packet: &[u8], offload: Offload) -> u64 {
    if offload.kind == SegmentKind::None {
        return 1;
    }
    let payload = packet.len() - headers_len(packet).unwrap_or(0).min(packet.len());
    payload.div_ceil(usize::from(offload.segment_size).max(1)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::segments::samples::{tcp6, udp6};

    const SUPER: Offload = Offload { kind: SegmentKind::Tcp, segment_size: 1000, partial_checksum: true };

    #[test]
    fn whole_for_us_split_for_others() {
        let packet = tcp6(1, &[1; 2500], 0x18);
        let mut run = Run::default();
        run.append(&packet, SUPER, Format::Segments).unwrap();
        assert_eq!((run.bytes().len(), run.packets()), (4 + packet.len(), 3));
        assert_eq!(run.bytes()[..4], [0x81, 0, 3, 232]);
        run.clear();
        run.append(&packet, SUPER, Format::Packets).unwrap();
        assert_eq!((run.bytes().len(), run.packets()), (packet.len() + 120, 3));
    }

    #[test]
    fn a_single_segment_is_an_ordinary_packet() {
        let mut run = Run::default();
        run.append(&tcp6(1, &[1; 900], 0x18), SUPER, Format::Segments).unwrap();
        assert_eq!(run.bytes()[..4], [0x80, 0, 0, 0]);
    }

    #[test]
    fn what_the_peer_would_refuse_is_not_sent() {
        let mut run = Run::default();
        let large = Offload { segment_size: 1441, ..SUPER };
        assert!(run.append(&tcp6(1, &[1; 3000], 0x18), large, Format::Segments).is_err());
        assert!(run.append(&udp6(&[1; 3000]), SUPER, Format::Packets).is_err());
        assert!(run.is_empty() && run.packets() == 0);
    }

    /// Once in some hundred million packets a run is full but for a few bytes.
    #[test]
    fn a_run_that_is_nearly_full_refuses_what_does_not_fit() {
        for format in [Format::Segments, Format::Packets] {
            let framing = if format == Format::Segments { SegmentHeader::LEN } else { 0 };
            for left in 0..=64 {
                let mut run = Run::default();
                // A packet's payload length has 16 bits: four of them, then what is missing.
                for _ in 0..4 {
                    run.append(&udp6(&vec![0; RUN_LEN / 4 - 2 * 48]), Offload::default(), format).unwrap();
                }
                let rest = RUN_LEN - run.bytes().len() - left - framing;
                run.append(&udp6(&vec![0; rest - 48]), Offload::default(), format).unwrap();
                assert_eq!(run.bytes().len(), RUN_LEN - left);
                let packets = run.packets();
                let fits = 48 + framing <= left;
                assert_eq!(run.append(&udp6(&[]), Offload::default(), format).is_ok(), fits, "{left} {format:?}");
                assert_eq!(run.packets(), packets + u64::from(fits));
            }
        }
    }
}
