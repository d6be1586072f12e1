//! Segment headers, virtio headers, and super-segments cut and put together.

use super::input::Input;
use super::oracle::{self, Sum};
use super::{Outcomes, packets};
use crate::core::frame::{Offload, SegmentKind};
use crate::core::segments::coalesce::Coalescer;
use crate::core::segments::split::Segments;
use crate::wire::segment_header::SegmentHeader;
use crate::wire::virtio;

pub fn segment_header(input: &mut Input<'_>, seen: &mut Outcomes) {
    let bytes = [input.byte(), input.byte(), input.byte(), input.byte()];
    let parsed = SegmentHeader::parse(&bytes);
    seen.note_result("parse", &parsed);
    let Ok(header) = parsed else { return };
    let mut out = [0; 4];
    header.emit(&mut out);
    assert_eq!(out, bytes);
    let packet = input.rest();
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return;
    }
    let checked = header.check(packet);
    seen.note_result("check", &checked);
    let offload = header.offload();
    // What passes the check is what the kernel is told: it must be expressible, and splittable when it has right lengths.
    if checked.is_ok() && (offload.partial_checksum || offload.kind != SegmentKind::None) {
        assert!(virtio::emit(packet, offload).is_ok());
        assert!(Segments::new(packet, offload).is_ok());
    }
}

pub fn virtio(input: &mut Input<'_>, seen: &mut Outcomes) {
    let mut header = [0; virtio::HEADER_LEN];
    for byte in &mut header {
        *byte = input.byte();
    }
    let mut packet = input.rest().to_vec();
    let before = packet.len();
    let parsed = virtio::parse(&header, &mut packet);
    seen.note_result("virtio", &parsed);
    assert_eq!(packet.len(), before);
    let Ok(offload) = parsed else { return };
    seen.note("kind", &offload.kind);
    if offload == Offload::default() {
        return;
    }
    if let Ok(emitted) = virtio::emit(&packet, offload) {
        assert_eq!(virtio::parse(&emitted, &mut packet), Ok(offload));
        let mut split = Segments::new(&packet, offload).expect("what can be told to the kernel can be split");
        let mut out = vec![0; packet.len()];
        let (headers, mut payload) = (virtio::headers_len(&packet).expect("headers"), 0);
        while let Some(len) = split.next_into(&mut out).expect("room for a packet") {
            payload += len - headers;
        }
        assert_eq!(payload, packet.len() - headers);
    }
}

/// Packets of some flows are coalesced and split again: the same packets, in order within each flow, sums right.
pub fn segments(input: &mut Input<'_>, seen: &mut Outcomes) {
    let mut coalescer = Coalescer::default();
    let mut sequences = [0u32; 4];
    let (mut sent, mut received): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    while !input.is_empty() && sent.len() < 200 {
        let flow = input.byte();
        let (port, is_tcp) = (flow & 3, flow & 4 == 0);
        let size = [100usize, 1000, 1220, usize::from(flow) * 5][usize::from(flow >> 3 & 3)];
        let payload = vec![flow; size];
        let transport = if is_tcp {
            let flags = if flow & 0x60 == 0x60 { input.byte() } else { 0x10 };
            let mut segment = packets::tcp(1000 + u16::from(port), 2000, flags, &payload);
            let sequence = &mut sequences[usize::from(port)];
            if flow & 0x80 != 0 {
                *sequence = input.long();
            }
            segment[4..8].copy_from_slice(&sequence.to_be_bytes());
            *sequence = sequence.wrapping_add(size as u32);
            segment
        } else {
            packets::udp(1000 + u16::from(port), 2000, &payload)
        };
        let mut packet = packets::Packet::new(&[0xfd; 16], &[0xfc; 16], if is_tcp { 6 } else { 17 });
        if flow & 0xe0 == 0xa0 {
            packet = packet.vary(input);
        }
        let mut packet = packet.build(&transport);
        if flow & 0xe0 == 0x20 {
            packets::damage(input, &mut packet);
        }
        if oracle::look(&packet).is_none() {
            continue;
        }
        packets::with_frame(&packet, Offload::default(), |frame| {
            coalescer.push(frame, &mut |frame| split(frame.bytes(), frame.offload, &mut received, seen));
        });
        sent.push(packet);
    }
    coalescer.flush(&mut |frame| split(frame.bytes(), frame.offload, &mut received, seen));
    // The sort is stable: only flows may change places.
    for list in [&mut sent, &mut received] {
        list.sort_by_key(|packet| flow_of(packet));
    }
    assert_eq!(sent.len(), received.len());
    for (before, after) in sent.iter().zip(&received) {
        assert_eq!(before, after);
    }
}

/// What tells flows apart: everything but order counts for packets that are not TCP or UDP right behind IPv6.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    let ports = packet.get(40..44).unwrap_or_default();
    [&packet[6..7], &packet[8..40.min(packet.len())], ports].concat()
}

fn split(packet: &[u8], offload: Offload, received: &mut Vec<Vec<u8>>, seen: &mut Outcomes) {
    seen.note("kind", &offload.kind);
    let mut split = Segments::new(packet, offload).expect("what was put together can be split");
    let mut out = vec![0; packet.len()];
    while let Some(len) = split.next_into(&mut out).expect("room for a packet") {
        if offload.kind != SegmentKind::None {
            assert_eq!(oracle::look(&out[..len]).map(|seen| seen.sum), Some(Sum::Good));
        }
        received.push(out[..len].to_vec());
    }
}
