//! RFC 7915 section 5: IPv6 to IPv4.

use super::packets::*;
use super::*;

fn dns(data: &[u8]) -> Vec<u8> {
    udp(40_000, 53, data)
}

#[test]
fn header_fields_of_a_small_packet() {
    let mut bench = Bench::new(config());
    let packet = V6 { class: 0x2e, hops: 33, ..V6::new(server6(), 17) };
    let out = bench.pass6(&packet.build(dns(b"hello")));
    assert_eq!(&out[..4], &[0x45, 0x2e, 0, 33]);
    // Up to 1260 bytes DF is clear.
    assert_eq!((word16(&out, 6), out[8], out[9]), (0, 32, 17));
    assert_eq!((address4(&out, 12), address4(&out, 16)), (POOL, SERVER));
    assert_eq!(&check(&out)[8..], b"hello");
}

#[test]
fn df_is_set_above_1260_bytes_only() {
    let mut bench = Bench::new(config());
    let at = bench.pass6(&V6::new(server6(), 17).build(dns(&[0; 1260 - 28])));
    let above = bench.pass6(&V6::new(server6(), 17).build(dns(&[0; 1261 - 28])));
    assert_eq!((at.len(), word16(&at, 6)), (1260, 0));
    assert_eq!((above.len(), word16(&above, 6)), (1261, 0x4000));
    assert_ne!(word16(&at, 4), word16(&above, 4), "identifications differ");
}

#[test]
fn larger_than_the_ipv4_mtu_is_reported_with_mtu_plus_20() {
    let mut bench = Bench::new(config());
    let fits = bench.pass6(&V6::new(server6(), 17).build(dns(&[0; 1500 - 28])));
    assert_eq!(fits.len(), 1500);
    let sent = V6::new(server6(), 17).build(dns(&[0; 1501 - 28]));
    let (verdict, reply) = bench.v6(&sent);
    assert_eq!((verdict, reply.len()), (Verdict::Reply, 1280));
    let message = check(&reply);
    assert_eq!((&message[..2], word32(message, 4)), (&[2, 0][..], 1520));
    assert_eq!(&message[8..], &sent[..1232]);
    assert_eq!((address6(&reply, 8), address6(&reply, 24)), (gateway6(), client()));
}

#[test]
fn extension_headers_are_skipped_and_not_counted() {
    let mut bench = Bench::new(config());
    let mut packet = V6::new(server6(), 17);
    packet.first = Some(0);
    packet.extensions = [
        [43, 0, 1, 4, 0, 0, 0, 0], // hop-by-hop
        [60, 0, 0, 0, 0, 0, 0, 0], // routing, no segments left
        [17, 0, 1, 4, 0, 0, 0, 0], // destination options
    ]
    .concat();
    let out = bench.pass6(&packet.build(dns(b"x")));
    assert_eq!((out.len(), out[9]), (29, 17));
    check(&out);
}

#[test]
fn a_routing_header_with_segments_left_is_a_parameter_problem() {
    let mut bench = Bench::new(config());
    let mut packet = V6::new(server6(), 17);
    packet.first = Some(60);
    packet.extensions = [[43, 0, 1, 4, 0, 0, 0, 0], [17, 0, 0, 2, 0, 0, 0, 0]].concat();
    let (verdict, reply) = bench.v6(&packet.build(dns(b"x")));
    assert_eq!(verdict, Verdict::Reply);
    // The pointer names the Segments Left byte: 40 + 8 + 3.
    assert_eq!((&check(&reply)[..2], word32(check(&reply), 4)), (&[4, 0][..], 51));
}

#[test]
fn a_fragment_header_becomes_flags_offset_and_identification() {
    let mut bench = Bench::new(config());
    let whole = V6::new(server6(), 17).build(dns(&[7; 1992]))[40..].to_vec();
    let first = bench.pass6(&V6::new(server6(), 17).fragment(1, 0xdead_beef).raw(&whole[..1200]));
    let second = bench.pass6(&V6::new(server6(), 17).fragment(1200, 0xdead_beef).raw(&whole[1200..]));
    assert_eq!((word16(&first, 4), word16(&first, 6)), (0xbeef, 0x2000));
    assert_eq!((word16(&second, 4), word16(&second, 6)), (0xbeef, 150));
    check(&V4 { source: POOL, destination: SERVER, ..V4::new(POOL, 17) }.raw(&reassemble(&[first, second])));
}

#[test]
fn an_atomic_fragment_loses_its_header() {
    let mut bench = Bench::new(config());
    let whole = V6::new(server6(), 17).build(dns(b"x"))[40..].to_vec();
    let out = bench.pass6(&V6::new(server6(), 17).fragment(0, 0x1_0007).raw(&whole));
    assert_eq!((word16(&out, 4), word16(&out, 6)), (7, 0));
    check(&out);
}

#[test]
fn a_fragment_larger_than_the_ipv4_mtu_is_fragmented_further() {
    let mut bench = Bench::new(config());
    let whole = V6::new(server6(), 17).build(dns(&[7; 3992]))[40..].to_vec();
    let packet = V6::new(server6(), 17).fragment(1, 5).raw(&whole[..3200]);
    assert_eq!(bench.v6(&packet).0, Verdict::Sent);
    let last = bench.pass6(&V6::new(server6(), 17).fragment(3200, 5).raw(&whole[3200..]));
    let mut pieces = bench.sunk.clone();
    assert!(pieces.iter().all(|piece| piece.len() <= 1500 && word16(piece, 6) & 0x2000 != 0));
    pieces.push(last);
    check(&V4 { destination: SERVER, ..V4::new(POOL, 17) }.raw(&reassemble(&pieces)));
}

#[test]
fn hop_limit_runs_out() {
    let mut bench = Bench::new(config());
    for hops in [0, 1] {
        let (verdict, reply) = bench.v6(&V6 { hops, ..V6::new(server6(), 17) }.build(dns(b"x")));
        assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[3, 0][..]));
    }
    assert_eq!(bench.nat.stats().bindings, 0);
}

#[test]
fn udp_without_checksum_is_dropped() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.v6(&V6::new(server6(), 17).raw(&dns(b"x"))).0, Verdict::Drop(Reason::UdpChecksumZero));
}

#[test]
fn neighbour_discovery_mld_and_unknown_icmpv6_are_dropped_silently() {
    let mut bench = Bench::new(config());
    for kind in (130..=138).chain([143, 200, 255]) {
        let (verdict, _) = bench.v6(&V6::new(server6(), 58).build(icmp(kind, 0, 0, &[0; 16])));
        assert_eq!(verdict, Verdict::Drop(Reason::IcmpType), "type {kind}");
    }
}

#[test]
fn a_fragmented_echo_is_translated_when_it_is_whole() {
    let mut bench = Bench::new(config());
    let whole = V6::new(server6(), 58).build(icmp(128, 0, 0x9000_0001, &[9; 1992]))[40..].to_vec();
    let part = |field, data: &[u8]| V6::new(server6(), 58).fragment(field, 0x9_0009).raw(data);
    assert_eq!(bench.v6(&part(1, &whole[..1232])).0, Verdict::Held);
    assert_eq!(bench.v6(&part(1232, &whole[1232..])).0, Verdict::Sent);
    let message = reassemble(&bench.sunk);
    check(&V4 { source: POOL, destination: SERVER, ..V4::new(POOL, 1) }.raw(&message));
    assert_eq!((message[0], &message[8..], bench.sunk[0][6] & 0x40, word16(&bench.sunk[0], 4)), (8, &whole[8..], 0, 9));
}

#[test]
fn an_extension_header_behind_the_fragment_header_is_refused() {
    let mut bench = Bench::new(config());
    for next in [0, 43, 51, 60] {
        let mut packet = V6::new(server6(), 17).fragment(1, 9);
        packet.extensions[0] = next;
        let (verdict, reply) = bench.v6(&packet.raw(&[17, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 8, 0, 1]));
        assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[1, 1][..]), "next header {next}");
    }
}

#[test]
fn other_protocols_get_port_unreachable() {
    let mut bench = Bench::new(config());
    let (verdict, reply) = bench.v6(&V6::new(server6(), 132).raw(&[0; 20]));
    assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[1, 4][..]));
}

#[test]
fn sources_and_destinations_that_are_no_hosts_are_refused() {
    let mut bench = Bench::new(config());
    let inside = V6 { source: server6(), ..V6::new(server6(), 17) };
    assert_eq!(bench.v6(&inside.build(dns(b"x"))).0, Verdict::Drop(Reason::Source));
    let multicast = V6::new(prefix().embed(Ipv4Addr::new(224, 0, 0, 1)), 17);
    let (verdict, reply) = bench.v6(&multicast.build(dns(b"x")));
    assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[1, 0][..]));
    let outside = V6::new("2001:db8::1".parse().unwrap(), 17);
    assert_eq!(bench.v6(&outside.build(dns(b"x"))).0, Verdict::Drop(Reason::NotInPrefix));
}

#[test]
fn a_udp_checksum_never_becomes_zero() {
    let mut bench = Bench::new(config());
    let mut all_ones = [0, 0];
    for word in 0..=u16::MAX {
        let out = bench.pass6(&V6::new(server6(), 17).build(dns(&word.to_be_bytes())));
        let back = bench.pass4(&V4::new(SERVER, 17).build(udp(53, 40_000, &word.to_be_bytes())));
        for (index, packet) in [out, back].iter().enumerate() {
            let value = word16(check(packet), 6);
            assert_ne!(value, 0);
            all_ones[index] += u32::from(value == 0xffff);
        }
    }
    assert!(all_ones.iter().all(|count| *count > 0), "the case occurs: {all_ones:?}");
}
