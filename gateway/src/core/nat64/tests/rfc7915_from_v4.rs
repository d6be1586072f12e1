//! RFC 7915 section 4: IPv4 to IPv6.

use super::packets::*;
use super::*;

/// A bench with a UDP binding 40000 (client) to 40000 (pool) and a session with the server's port 53.
fn open() -> Bench {
    let mut bench = Bench::new(config());
    bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, b"question")));
    bench
}

#[test]
fn header_fields_of_an_unfragmented_packet() {
    let mut bench = open();
    let mut packet = V4::new(SERVER, 17);
    (packet.tos, packet.ttl) = (0xb9, 17);
    let out = bench.pass4(&packet.build(udp(53, 40_000, b"answer!")));
    // Version 6, traffic class 0xb9, flow label 0, payload length 15, next header 17, hop limit 16.
    assert_eq!(&out[..8], &[0x6b, 0x90, 0, 0, 0, 15, 17, 16]);
    assert_eq!((address6(&out, 8), address6(&out, 24)), (server6(), client()));
    let payload = check(&out);
    assert_eq!((word16(payload, 0), word16(payload, 2), &payload[8..]), (53, 40_000, &b"answer!"[..]));
}

#[test]
fn without_df_a_small_packet_gets_no_fragment_header() {
    let mut bench = open();
    let mut packet = V4::new(SERVER, 17);
    packet.fragment = 0;
    let out = bench.pass4(&packet.build(udp(53, 40_000, &[1; 1232 - 20])));
    assert_eq!((out.len(), out[6]), (1260, 17));
    check(&out);
}

#[test]
fn options_are_ignored_unless_a_source_route_is_unexpired() {
    let mut bench = open();
    let mut packet = V4::new(SERVER, 17);
    packet.options = vec![7, 7, 4, 0, 0, 0, 0, 0]; // record route
    let out = bench.pass4(&packet.build(udp(53, 40_000, b"x")));
    assert_eq!((out.len(), check(&out)[8]), (49, b'x'));

    for kind in [131, 137] {
        packet.options = vec![kind, 7, 4, 10, 0, 0, 9, 0];
        let (verdict, reply) = bench.v4(&packet.build(udp(53, 40_000, b"x")));
        assert_eq!(verdict, Verdict::Reply);
        assert_eq!(&check(&reply)[..2], &[3, 5]);
        assert_eq!((address4(&reply, 12), address4(&reply, 16)), (POOL, SERVER));
        packet.options[2] = 8; // all hops visited
        bench.pass4(&packet.build(udp(53, 40_000, b"x")));
    }
    assert_eq!(bench.nat.stats().refused(Reason::SourceRoute), 2);
}

#[test]
fn ttl_runs_out() {
    let mut bench = open();
    let mut packet = V4::new(SERVER, 17);
    packet.ttl = 1;
    let sent = packet.build(udp(53, 40_000, b"x"));
    let (verdict, reply) = bench.v4(&sent);
    assert_eq!(verdict, Verdict::Reply);
    let message = check(&reply);
    assert_eq!((&message[..2], &message[8..]), (&[11, 0][..], &sent[..]));
}

#[test]
fn too_big_with_df_is_reported_with_the_mtu_less_20() {
    let mut bench = open();
    let fits = V4::new(SERVER, 17).build(udp(53, 40_000, &[1; 1260 - 28]));
    assert_eq!(bench.pass4(&fits).len(), 1280);
    let (verdict, reply) = bench.v4(&V4::new(SERVER, 17).build(udp(53, 40_000, &[1; 1261 - 28])));
    assert_eq!(verdict, Verdict::Reply);
    let message = check(&reply);
    assert_eq!((&message[..2], word16(message, 4), word16(message, 6)), (&[3, 4][..], 0, 1260));
}

#[test]
fn too_big_without_df_is_fragmented_to_1280() {
    let mut bench = open();
    let mut packet = V4::new(SERVER, 17);
    packet.fragment = 0;
    let data: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    assert_eq!(bench.v4(&packet.build(udp(53, 40_000, &data))).0, Verdict::Sent);
    assert_eq!(bench.sunk.iter().map(Vec::len).collect::<Vec<_>>(), [1280, 1280, 48 + 3008 - 2464]);
    for piece in &bench.sunk {
        assert_eq!((piece[6], piece[40], word32(piece, 44)), (44, 17, 0x4321));
    }
    let whole = reassemble(&bench.sunk);
    assert_eq!(&whole[8..], &data[..]);
    check(&V6 { source: server6(), destination: client(), ..V6::new(client(), 17) }.raw(&whole));
}

#[test]
fn fragments_keep_offset_and_more_and_the_low_half_of_the_identification() {
    let mut bench = open();
    let mut packet = V4::new(SERVER, 17);
    let whole = V4::new(SERVER, 17).build(udp(53, 40_000, &[9; 1992]))[20..].to_vec();
    packet.fragment = 0x2000;
    let first = bench.pass4(&packet.raw(&whole[..1000]));
    packet.fragment = 125;
    let second = bench.pass4(&packet.raw(&whole[1000..]));
    assert_eq!(&first[40..48], &[17, 0, 0, 1, 0, 0, 0x43, 0x21]);
    assert_eq!(&second[40..48], &[17, 0, 3, 0xe8, 0, 0, 0x43, 0x21]);
    check(&V6 { source: server6(), ..V6::new(client(), 17) }.raw(&reassemble(&[first, second])));
}

#[test]
fn udp_without_checksum_gets_one() {
    let mut bench = open();
    let out = bench.pass4(&V4::new(SERVER, 17).raw(&udp(53, 40_000, b"no checksum")));
    assert_ne!(word16(check(&out), 6), 0);
    let mut long = udp(53, 40_000, b"length beyond the packet");
    long[5] = 200;
    assert_eq!(bench.v4(&V4::new(SERVER, 17).raw(&long)).0, Verdict::Drop(Reason::Malformed));
}

#[test]
fn fragmented_udp_without_checksum_is_put_together_for_one() {
    for reversed in [false, true] {
        let mut bench = open();
        let whole = udp(53, 40_000, &[7; 1992]);
        let part = |fragment, data: &[u8]| V4 { fragment, ..V4::new(SERVER, 17) }.raw(data);
        let mut parts = [part(0x2000, &whole[..800]), part(0x2000 | 100, &whole[800..1600]), part(200, &whole[1600..])];
        if reversed {
            parts.reverse();
        }
        assert_eq!(bench.v4(&parts[0]).0, Verdict::Held);
        assert_eq!(bench.v4(&parts[1]).0, Verdict::Held);
        assert_eq!(bench.v4(&parts[2]).0, Verdict::Sent);
        let datagram = reassemble(&bench.sunk);
        assert_eq!((datagram.len(), &datagram[8..]), (2000, &whole[8..]));
        check(&V6 { source: server6(), ..V6::new(client(), 17) }.raw(&datagram));
    }
}

#[test]
fn echo_becomes_icmpv6_echo() {
    let mut bench = Bench::new(config());
    let out = bench.pass6(&V6::new(server6(), 58).build(icmp(128, 0, 0x9000_0001, b"ping")));
    assert_eq!(&check(&out)[..2], &[8, 0]);
    let id = word16(check(&out), 4);
    let reply = V4::new(SERVER, 1).build(icmp(0, 0, u32::from(id) << 16 | 1, b"ping"));
    let back = bench.pass4(&reply);
    let message = check(&back);
    assert_eq!((message[0], word32(message, 4), &message[8..]), (129, 0x9000_0001, &b"ping"[..]));
}

#[test]
fn other_icmp_queries_and_unknown_types_are_dropped_silently() {
    let mut bench = open();
    for kind in [9, 10, 13, 14, 15, 16, 17, 18, 40, 42, 250] {
        let (verdict, _) = bench.v4(&V4::new(SERVER, 1).build(icmp(kind, 0, 0, &[0; 8])));
        assert_eq!(verdict, Verdict::Drop(Reason::IcmpType), "type {kind}");
    }
}

#[test]
fn a_fragmented_echo_is_translated_when_it_is_whole() {
    let mut bench = open();
    bench.pass6(&V6::new(server6(), 58).build(icmp(128, 0, 0x9000_0001, b"ping")));
    let whole = V4::new(SERVER, 1).build(icmp(0, 0, 0x9000_0001, &[9; 1992]))[20..].to_vec();
    let part = |fragment, data: &[u8]| V4 { fragment, ..V4::new(SERVER, 1) }.raw(data);
    assert_eq!(bench.v4(&part(0x2000, &whole[..1480])).0, Verdict::Held);
    assert_eq!(bench.v4(&part(185, &whole[1480..])).0, Verdict::Sent);
    let message = reassemble(&bench.sunk);
    check(&V6 { source: server6(), ..V6::new(client(), 58) }.raw(&message));
    assert_eq!((message[0], &message[8..]), (129, &whole[8..]));
}

#[test]
fn igmp_is_dropped_silently() {
    let mut bench = open();
    assert_eq!(bench.v4(&V4::new(SERVER, 2).raw(&[0x16; 8])).0, Verdict::Drop(Reason::Protocol));
}

#[test]
fn other_protocols_get_protocol_unreachable() {
    let mut bench = open();
    let (verdict, reply) = bench.v4(&V4::new(SERVER, 47).raw(&[0; 20]));
    assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[3, 2][..]));
}

#[test]
fn damaged_headers_and_foreign_addresses_are_dropped() {
    let mut bench = open();
    let good = V4::new(SERVER, 17).build(udp(53, 40_000, b"x"));
    let mut bad = good.clone();
    bad[10] ^= 1;
    assert_eq!(bench.v4(&bad).0, Verdict::Drop(Reason::Checksum));
    let elsewhere = V4 { destination: ROUTER, ..V4::new(SERVER, 17) };
    assert_eq!(bench.v4(&elsewhere.build(udp(53, 40_000, b"x"))).0, Verdict::Drop(Reason::NotInPool));
    let spoofed = V4::new(Ipv4Addr::new(127, 0, 0, 1), 17);
    assert_eq!(bench.v4(&spoofed.build(udp(53, 40_000, b"x"))).0, Verdict::Drop(Reason::Source));
}
