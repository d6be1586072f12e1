//! The stream of packets: the same packets or the same error however the bytes are cut, and a bounded remainder.

use super::Outcomes;
use super::input::Input;
use crate::core::frame::{HEADROOM, Offload};
use crate::core::iphttps::{Deframer, Format, Plaintext, StreamError};
use crate::wire::segment_header::SegmentHeader;

type Packets = Vec<(Vec<u8>, Offload)>;

pub fn deframer(input: &mut Input<'_>, seen: &mut Outcomes) {
    let flags = input.byte();
    let format = if flags & 1 != 0 { Format::Segments } else { Format::Packets };
    let cuts = input.piece();
    let stream = input.rest();
    let (whole, whole_error) = read(format, stream, &[]);
    let (pieces, pieces_error) = read(format, stream, cuts);
    // A piece may end before the byte that shows an error, but never after it.
    assert_eq!(whole, pieces);
    assert_eq!(whole_error, pieces_error);
    if let Some(error) = whole_error {
        seen.note("error", &error);
        seen.note("close", &error.close_reason());
        if let StreamError::Segment(error) = error {
            seen.note("segment", &error);
        }
    }
    // Framed again, the packets are the stream as far as it was good.
    let mut again = Vec::new();
    for (packet, offload) in &whole {
        seen.note("kind", &offload.kind);
        assert_eq!(packet[0] >> 4, 6);
        if format == Format::Segments {
            let mut header = [0; SegmentHeader::LEN];
            SegmentHeader::from_offload(offload).emit(&mut header);
            again.extend(header);
        }
        again.extend(packet);
    }
    assert!(stream.starts_with(&again));
}

fn read(format: Format, stream: &[u8], cuts: &[u8]) -> (Packets, Option<StreamError>) {
    let mut deframer = Deframer::new(format);
    let (mut packets, mut rest, mut cuts) = (Vec::new(), stream, cuts.iter().cycle());
    while !rest.is_empty() {
        let cut = cuts.next().map_or(rest.len(), |cut| usize::from(*cut) * usize::from(*cut) / 16 + 1);
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        let mut buffer = [&[0xaa; HEADROOM][..], piece].concat();
        let end = buffer.len();
        let mut plaintext = Plaintext { buffer: &mut buffer, start: HEADROOM, end };
        loop {
            match deframer.next(&mut plaintext) {
                Ok(Some(frame)) => {
                    assert!(frame.headroom() >= HEADROOM);
                    packets.push((frame.bytes().to_vec(), frame.offload));
                }
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
        assert_eq!(plaintext.start, plaintext.end);
        assert!(deframer.held() < SegmentHeader::LEN + 40 + 65_536);
    }
    (packets, None)
}
