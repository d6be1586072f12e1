//! Super-segments: translated whole, partial checksums re-based.

use super::packets::*;
use super::*;
use crate::core::frame::SegmentKind;

const ACK: u8 = 16;
const SYN: u8 = 2;

fn offload(kind: SegmentKind, segment_size: u16) -> Offload {
    Offload { kind, segment_size, partial_checksum: true }
}

/// Puts the pseudo-header sum of the packet in its checksum field, as a kernel does (CHECKSUM_PARTIAL).
fn make_partial(packet: &mut [u8]) {
    let sum = partial_sum(packet);
    let at = field(packet);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn field(packet: &[u8]) -> usize {
    let (start, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
    start + if protocol == 6 { 16 } else { 6 }
}

fn partial_sum(packet: &[u8]) -> u16 {
    let (addresses, start, protocol) =
        if packet[0] >> 4 == 4 { (&packet[12..20], 20, packet[9]) } else { (&packet[8..40], 40, packet[6]) };
    let len = (packet.len() - start) as u32;
    ones_sum(&[addresses, &len.to_be_bytes(), &[0, protocol]])
}

fn check_partial(packet: &[u8]) {
    let at = field(packet);
    assert_eq!(word16(packet, at), partial_sum(packet), "partial checksum");
}

fn open() -> Bench {
    let mut bench = Bench::new(config());
    bench.pass6(&V6::new(server6(), 6).build(tcp(40_001, 80, SYN, b"")));
    bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, b"")));
    bench
}

#[test]
fn a_tcp_super_segment_stays_whole_both_ways() {
    let mut bench = open();
    let mut packet = V6::new(server6(), 6).raw(&tcp(40_001, 80, ACK, &[5; 60_000]));
    make_partial(&mut packet);
    let sent = offload(SegmentKind::Tcp, 1220);
    let ((verdict, out), after) = bench.run(&packet, sent, true);
    assert_eq!((verdict, after, out.len()), (Verdict::Forward, sent, 20 + 20 + 60_000));
    assert_eq!(word16(&out, 6), 0, "a segment of 1260 bytes may be fragmented");
    check_partial(&out);

    let mut packet = V4::new(SERVER, 6).raw(&tcp(80, 40_001, ACK, &[5; 60_000]));
    make_partial(&mut packet);
    let ((verdict, out), after) = bench.run(&packet, sent, false);
    assert_eq!((verdict, after, out.len()), (Verdict::Forward, sent, 40 + 20 + 60_000));
    check_partial(&out);
}

#[test]
fn a_udp_super_segment_stays_whole_both_ways() {
    let mut bench = open();
    let sent = offload(SegmentKind::Udp, 1200);
    let mut packet = V6::new(server6(), 17).raw(&udp(40_000, 53, &[5; 9000]));
    make_partial(&mut packet);
    let ((verdict, out), after) = bench.run(&packet, sent, true);
    assert_eq!((verdict, after, out.len()), (Verdict::Forward, sent, 9028));
    check_partial(&out);
    let mut packet = V4::new(SERVER, 17).raw(&udp(53, 40_000, &[5; 9000]));
    make_partial(&mut packet);
    let ((verdict, out), after) = bench.run(&packet, sent, false);
    assert_eq!((verdict, after, out.len()), (Verdict::Forward, sent, 9048));
    check_partial(&out);
}

#[test]
fn a_single_packet_may_have_a_partial_checksum() {
    let mut bench = open();
    let mut packet = V6::new(server6(), 17).raw(&udp(40_000, 53, b"x"));
    make_partial(&mut packet);
    let partial = offload(SegmentKind::None, 0);
    let ((verdict, out), after) = bench.run(&packet, partial, true);
    assert_eq!((verdict, after), (Verdict::Forward, partial));
    check_partial(&out);
}

#[test]
fn segments_too_large_for_the_next_hop_are_reported() {
    let mut bench = open();
    let mut packet = V6::new(server6(), 6).raw(&tcp(40_001, 80, ACK, &[5; 9000]));
    make_partial(&mut packet);
    let ((verdict, reply), after) = bench.run(&packet, offload(SegmentKind::Tcp, 1480), true);
    assert_eq!((verdict, after), (Verdict::Reply, Offload::default()));
    assert_eq!((check(&reply)[0], word32(check(&reply), 4)), (2, 1520));
    let mut packet = V4::new(SERVER, 6).raw(&tcp(80, 40_001, ACK, &[5; 9000]));
    make_partial(&mut packet);
    let ((verdict, reply), _) = bench.run(&packet, offload(SegmentKind::Tcp, 1460), false);
    assert_eq!((verdict, &check(&reply)[..8]), (Verdict::Reply, &[3, 4, reply[22], reply[23], 0, 0, 4, 0xec][..]));
}

#[test]
fn without_df_tcp_segments_shrink_and_udp_datagrams_are_fragmented() {
    let mut bench = open();
    let loose = V4 { fragment: 0, ..V4::new(SERVER, 6) };
    let mut packet = loose.raw(&tcp(80, 40_001, ACK, &[5; 9000]));
    make_partial(&mut packet);
    let ((verdict, out), after) = bench.run(&packet, offload(SegmentKind::Tcp, 1460), false);
    assert_eq!((verdict, after), (Verdict::Forward, offload(SegmentKind::Tcp, 1220)));
    check_partial(&out);

    let data: Vec<u8> = (0..3500u32).map(|n| n as u8).collect();
    let mut packet = V4 { protocol: 17, ..loose }.raw(&udp(53, 40_000, &data));
    make_partial(&mut packet);
    let ((verdict, _), _) = bench.run(&packet, offload(SegmentKind::Udp, 1400), false);
    assert_eq!((verdict, bench.sunk.len()), (Verdict::Sent, 5));
    let mut received = Vec::new();
    for range in [0..2, 2..4] {
        let whole = reassemble(&bench.sunk[range]);
        check(&V6 { source: server6(), ..V6::new(client(), 17) }.raw(&whole));
        received.extend_from_slice(&whole[8..]);
    }
    received.extend_from_slice(&check(&bench.sunk[4])[8..]);
    assert_eq!(received, data);
    assert!(bench.sunk.iter().all(|piece| piece.len() <= 1280));
    assert_ne!(word32(&bench.sunk[0], 44), word32(&bench.sunk[2], 44));
}

#[test]
fn a_partial_checksum_is_completed_before_the_packet_is_cut_up() {
    let mut bench = open();
    let mut packet = V4 { fragment: 0, ..V4::new(SERVER, 17) }.raw(&udp(53, 40_000, &[5; 2000]));
    make_partial(&mut packet);
    let ((verdict, _), _) = bench.run(&packet, offload(SegmentKind::None, 0), false);
    assert_eq!((verdict, bench.sunk.len()), (Verdict::Sent, 2));
    check(&V6 { source: server6(), ..V6::new(client(), 17) }.raw(&reassemble(&bench.sunk)));
}

#[test]
fn an_offload_that_contradicts_the_packet_is_malformed() {
    let mut bench = open();
    let packet = V6::new(server6(), 17).build(udp(40_000, 53, &[0; 3000]));
    for offload in [
        offload(SegmentKind::Tcp, 1000),
        offload(SegmentKind::Udp, 0),
        Offload { partial_checksum: false, ..offload(SegmentKind::Udp, 1000) },
    ] {
        assert_eq!(bench.run(&packet, offload, true).0.0, Verdict::Drop(Reason::Malformed));
    }
}
