//! Cuts the plaintext of a stream into packets by 40 + Payload Length, and by nothing else (\[MS-IPHTTPS\] 3.2.5.2).
//!
//! Record and segment boundaries mean nothing. Packets are yielded where they lie in the caller's buffer; only one that
//! straddles two calls is copied, each of its bytes once, into a buffer that lasts as long as one vector after the other
//! ends within a packet. An idle session holds no buffer.

use std::fmt;

use super::CloseReason;
use crate::core::frame::{Frame, HEADROOM, Offload};
use crate::wire::segment_header::{SegmentError, SegmentHeader};

const IPV6_HEADER: usize = 40;

/// What precedes each packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Nothing: the standard stream.
    #[default]
    Packets,
    /// A [`SegmentHeader`]: two Portico ends that agreed on it.
    Segments,
}

/// Why a stream cannot be cut any further. Fatal for its session: where the next packet begins is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The first nibble of a packet, given here, is not 6.
    NotIpv6(u8),
    Segment(SegmentError),
}

impl StreamError {
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::NotIpv6(_) => CloseReason::NotIpv6,
            Self::Segment(_) => CloseReason::BadSegment,
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIpv6(version) => write!(formatter, "a packet begins with version {version}, not 6"),
            Self::Segment(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<SegmentError> for StreamError {
    fn from(error: SegmentError) -> Self {
        Self::Segment(error)
    }
}

/// New plaintext, `buffer[start..end]`, consumed from its start.
///
/// Keep `start >= HEADROOM` so that frames can grow at their head; what lies before a frame is overwritten by that.
#[derive(Debug)]
pub struct Plaintext<'a> {
    pub buffer: &'a mut [u8],
    pub start: usize,
    pub end: usize,
}

/// What the bytes at hand say about the next packet.
struct Cut {
    /// Header and packet together.
    total: usize,
    offload: Offload,
}

/// Where the next packet lies: in what straddled two calls, or in the input.
struct Found {
    partial: bool,
    start: usize,
    end: usize,
    offload: Offload,
}

#[derive(Debug, Default)]
pub struct Deframer {
    format: Format,
    /// `HEADROOM` unused bytes and the start of one packet; empty, and between calls without memory, when nothing
    /// straddles.
    partial: Vec<u8>,
    /// The packet in `partial` was yielded and can be forgotten.
    yielded: bool,
}

impl Deframer {
    pub fn new(format: Format) -> Self {
        Self { format, partial: Vec::new(), yielded: false }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of an unfinished packet held here.
    pub fn held(&self) -> usize {
        if self.yielded { 0 } else { self.partial.len().saturating_sub(HEADROOM) }
    }

    fn prefix(&self) -> usize {
        match self.format {
            Format::Packets => 0,
            Format::Segments => SegmentHeader::LEN,
        }
    }

    /// The next packet. `None` when `input` is used up; what remained of it is kept for the next call.
    ///
    /// # Errors
    /// When framing is lost; the deframer is of no further use.
    pub fn next<'s>(&'s mut self, input: &'s mut Plaintext<'_>) -> Result<Option<Frame<'s>>, StreamError> {
        let found = self.find(input)?;
        if found.is_none() {
            self.hold(input);
        }
        Ok(found.map(|found| self.frame(input, &found)))
    }

    /// The next packet. `None` when `input` holds no whole one: call again with the same bytes and more behind them, or
    /// [`Self::hold`].
    ///
    /// # Errors
    /// When framing is lost; the deframer is of no further use.
    pub fn next_at_hand<'s>(&'s mut self, input: &'s mut Plaintext<'_>) -> Result<Option<Frame<'s>>, StreamError> {
        let found = self.find(input)?;
        Ok(found.map(|found| self.frame(input, &found)))
    }

    /// Keeps the start of a packet that `input` consists of, so that its buffer can be used for something else.
    pub fn hold(&mut self, input: &mut Plaintext<'_>) {
        let bytes = &input.buffer[input.start..input.end];
        if self.partial.is_empty() {
            if bytes.is_empty() {
                self.partial = Vec::new();
                return;
            }
            self.partial.reserve_exact(HEADROOM + bytes.len());
            self.partial.resize(HEADROOM, 0);
        }
        self.partial.extend_from_slice(bytes);
        input.start = input.end;
    }

    fn find(&mut self, input: &mut Plaintext<'_>) -> Result<Option<Found>, StreamError> {
        if self.yielded {
            self.yielded = false;
            self.partial.clear();
        }
        if !self.partial.is_empty() {
            return self.finish_partial(input);
        }
        let bytes = &input.buffer[input.start..input.end];
        let whole = self.cut(bytes)?.filter(|cut| cut.total <= bytes.len());
        Ok(whole.map(|cut| {
            let (start, end) = (input.start + self.prefix(), input.start + cut.total);
            input.start = end;
            Found { partial: false, start, end, offload: cut.offload }
        }))
    }

    fn finish_partial(&mut self, input: &mut Plaintext<'_>) -> Result<Option<Found>, StreamError> {
        let prefix = self.prefix();
        loop {
            let held = self.partial.len() - HEADROOM;
            let cut = self.cut(&self.partial[HEADROOM..])?;
            let wanted = cut.as_ref().map_or(prefix + IPV6_HEADER, |cut| cut.total);
            if let Some(cut) = cut.filter(|_| held == wanted) {
                self.yielded = true;
                let end = self.partial.len();
                return Ok(Some(Found { partial: true, start: HEADROOM + prefix, end, offload: cut.offload }));
            }
            let available = &input.buffer[input.start..input.end];
            let taken = &available[..available.len().min(wanted - held)];
            if taken.is_empty() {
                return Ok(None);
            }
            self.partial.reserve_exact(wanted - held);
            self.partial.extend_from_slice(taken);
            input.start += taken.len();
        }
    }

    fn frame<'s>(&'s mut self, input: &'s mut Plaintext<'_>, found: &Found) -> Frame<'s> {
        // The frame ends with its packet so that it cannot grow over the one behind it.
        let buffer = if found.partial { &mut self.partial[..] } else { &mut input.buffer[..found.end] };
        Frame::new(buffer, found.start, found.end, found.offload)
    }

    /// Looks at the start of a packet: `None` when its length is not known yet. Errors show as soon as the byte that
    /// proves them is there.
    fn cut(&self, bytes: &[u8]) -> Result<Option<Cut>, StreamError> {
        let (offload, packet) = match self.format {
            Format::Packets => (Offload::default(), bytes),
            Format::Segments => {
                let Some((header, packet)) = bytes.split_first_chunk::<{ SegmentHeader::LEN }>() else {
                    return Ok(None);
                };
                (SegmentHeader::parse(header)?.offload(), packet)
            }
        };
        if let Some(&first) = packet.first()
            && first >> 4 != 6
        {
            return Err(StreamError::NotIpv6(first >> 4));
        }
        if packet.len() < IPV6_HEADER {
            return Ok(None);
        }
        // A jumbogram (RFC 2675) has Payload Length 0 and cannot be framed: it is the bare header.
        let length = IPV6_HEADER + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        if let Some(packet) = packet.get(..length) {
            SegmentHeader::from_offload(&offload).check(packet)?;
        }
        Ok(Some(Cut { total: self.prefix() + length, offload }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::frame::SegmentKind;

    fn packet(payload: usize, fill: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
        packet[4..6].copy_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
        packet.resize(IPV6_HEADER, fill);
        packet.resize(IPV6_HEADER + payload, fill);
        packet
    }

    /// Feeds one piece and returns the packets it completed.
    fn feed(deframer: &mut Deframer, piece: &[u8]) -> Result<Vec<(Vec<u8>, Offload)>, StreamError> {
        let mut buffer = vec![0xaa; HEADROOM];
        buffer.extend_from_slice(piece);
        let end = buffer.len();
        let mut input = Plaintext { buffer: &mut buffer, start: HEADROOM, end };
        let mut packets = Vec::new();
        while let Some(frame) = deframer.next(&mut input)? {
            assert!(frame.headroom() >= HEADROOM);
            packets.push((frame.bytes().to_vec(), frame.offload));
        }
        assert_eq!(input.start, input.end);
        Ok(packets)
    }

    fn plain(packets: Vec<(Vec<u8>, Offload)>) -> Vec<Vec<u8>> {
        packets.into_iter().map(|(bytes, _)| bytes).collect()
    }

    #[test]
    fn two_packets_in_one_record() {
        let mut deframer = Deframer::new(Format::Packets);
        let stream = [packet(0, 1), packet(1240, 2)].concat();
        assert_eq!(plain(feed(&mut deframer, &stream).unwrap()), [packet(0, 1), packet(1240, 2)]);
        assert_eq!(deframer.partial.capacity(), 0);
    }

    #[test]
    fn one_packet_over_three_records() {
        let mut deframer = Deframer::new(Format::Packets);
        let stream = packet(1240, 3);
        assert!(feed(&mut deframer, &stream[..5]).unwrap().is_empty());
        assert!(feed(&mut deframer, &stream[5..700]).unwrap().is_empty());
        assert_eq!(deframer.held(), 700);
        assert_eq!(plain(feed(&mut deframer, &stream[700..]).unwrap()), [stream]);
        assert_eq!((deframer.held(), deframer.partial.capacity()), (0, 0));
    }

    #[test]
    fn a_garbage_nibble_is_fatal_at_its_first_byte() {
        let mut deframer = Deframer::new(Format::Packets);
        let stream = [&packet(4, 0)[..], &[0x45]].concat();
        assert_eq!(feed(&mut deframer, &stream), Err(StreamError::NotIpv6(4)));
        let mut other = Deframer::new(Format::Packets);
        assert_eq!(feed(&mut other, b"GET"), Err(StreamError::NotIpv6(4)));
    }

    #[test]
    fn a_jumbogram_is_a_bare_header() {
        let mut deframer = Deframer::new(Format::Packets);
        let stream = [packet(0, 0), packet(9, 9)].concat();
        assert_eq!(plain(feed(&mut deframer, &stream).unwrap()), [packet(0, 0), packet(9, 9)]);
    }

    #[test]
    fn segments_carry_their_offload_and_are_checked() {
        let mut deframer = Deframer::new(Format::Segments);
        let mut tcp = packet(20 + 3000, 7);
        (tcp[6], tcp[52]) = (6, 5 << 4);
        let stream = [&[0x81, 0, 4, 0xc4][..], &tcp, &[0, 0, 0, 0], &packet(8, 1)].concat();
        let packets = feed(&mut deframer, &stream).unwrap();
        assert_eq!(packets[0].1, Offload { kind: SegmentKind::Tcp, segment_size: 1220, partial_checksum: true });
        assert_eq!((&packets[0].0, &packets[1].0), (&tcp, &packet(8, 1)));
        let bad = [&[0x82, 0, 4, 0xc4][..], &tcp].concat();
        assert_eq!(feed(&mut deframer, &bad), Err(StreamError::Segment(SegmentError::WrongTransport)));
        for piece in 1..8 {
            let mut pieces = Deframer::new(Format::Segments);
            let outcome: Result<Vec<_>, _> = bad.chunks(piece * 11).map(|bytes| feed(&mut pieces, bytes)).collect();
            assert_eq!(outcome.unwrap_err(), StreamError::Segment(SegmentError::WrongTransport));
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_packets(
            lengths in prop::collection::vec(0usize..3000, 1..12),
            cuts in prop::collection::vec(1usize..4000, 1..40),
            segments in any::<bool>(),
        ) {
            let format = if segments { Format::Segments } else { Format::Packets };
            let packets: Vec<_> = lengths.iter().zip(1..).map(|(&length, fill)| packet(length, fill)).collect();
            let mut stream = Vec::new();
            for packet in &packets {
                if segments {
                    stream.extend_from_slice(&[0; 4]);
                }
                stream.extend_from_slice(packet);
            }
            let mut deframer = Deframer::new(format);
            let mut found = Vec::new();
            let mut rest = &stream[..];
            for &cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                found.extend(plain(feed(&mut deframer, piece).unwrap()));
                prop_assert!(deframer.held() < SegmentHeader::LEN + IPV6_HEADER + 3000);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, packets);
            prop_assert_eq!(deframer.held(), 0);
        }

        #[test]
        fn any_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1usize..90, segments in any::<bool>(),
        ) {
            let mut deframer = Deframer::new(if segments { Format::Segments } else { Format::Packets });
            for piece in bytes.chunks(cut) {
                if feed(&mut deframer, piece).is_err() {
                    break;
                }
            }
        }
    }
}
