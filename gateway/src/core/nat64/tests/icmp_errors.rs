//! RFC 7915 sections 4.2, 4.3, 5.2 and 5.3: errors and the packets they quote.

use super::packets::*;
use super::*;

/// A bench with one UDP packet sent; returns it as IPv4 saw it.
fn sent() -> (Bench, Vec<u8>) {
    let mut bench = Bench::new(config());
    let out = bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, &[3; 100])));
    (bench, out)
}

/// The same with a packet received; returns it as IPv6 saw it.
fn received() -> (Bench, Vec<u8>) {
    let (mut bench, _) = sent();
    let out = bench.pass4(&V4::new(SERVER, 17).build(udp(53, 40_000, &[4; 100])));
    (bench, out)
}

#[test]
fn every_icmpv4_error_has_its_icmpv6_form() {
    // (type, code, second word) -> (type, code, second word) or dropped
    let none = None;
    let unreachable = |code| Some((1u8, code, 0u32));
    let mut table = vec![];
    for (code, expected) in [
        (0, unreachable(0)),
        (1, unreachable(0)),
        (2, Some((4, 1, 6))),
        (3, unreachable(4)),
        (5, unreachable(0)),
        (6, unreachable(0)),
        (7, unreachable(0)),
        (8, unreachable(0)),
        (9, unreachable(1)),
        (10, unreachable(1)),
        (11, unreachable(0)),
        (12, unreachable(0)),
        (13, unreachable(1)),
        (14, none),
        (15, unreachable(1)),
        (16, none),
    ] {
        table.push(((3u8, code, 0u32), expected));
    }
    table.extend([((4, 0, 0), none), ((5, 1, 0), none), ((11, 0, 0), Some((3, 0, 0))), ((11, 1, 0), Some((3, 1, 0)))]);
    let pointers = [(0, 0), (1, 1), (2, 4), (3, 4), (8, 7), (9, 6), (12, 8), (15, 8), (16, 24), (19, 24)];
    for code in [0, 2] {
        table.extend(pointers.map(|(v4, v6)| ((12, code, v4 << 24), Some((4, 0, v6)))));
        table.extend([4, 5, 6, 7, 10, 11, 20, 255].map(|v4| ((12, code, v4 << 24), none)));
    }
    table.extend([((12, 1, 0), none), ((12, 3, 0), none)]);
    // Fragmentation needed: +20, within 1280 and the next hop's 1280 (here the same).
    table.extend([0, 68, 576, 1260, 1400, 1500].map(|mtu| ((3, 4, mtu), Some((2, 0, 1280)))));

    for ((kind, code, word), expected) in table {
        let (mut bench, packet) = sent();
        let (verdict, out) = bench.v4(&V4::new(ROUTER, 1).build(icmp(kind, code, word, &packet)));
        match expected {
            None => assert_eq!(verdict, Verdict::Drop(Reason::IcmpType), "{kind}/{code}/{word:#x}"),
            Some(expected) => {
                assert_eq!(verdict, Verdict::Forward, "{kind}/{code}/{word:#x}");
                let message = check(&out);
                assert_eq!((message[0], message[1], word32(message, 4)), expected, "{kind}/{code}/{word:#x}");
            }
        }
    }
}

#[test]
fn every_icmpv6_error_has_its_icmpv4_form() {
    let none = None;
    let mut table = vec![
        ((1u8, 0u8, 0u32), Some((3u8, 1u8, 0u32))),
        ((1, 1, 0), Some((3, 10, 0))),
        ((1, 2, 0), Some((3, 1, 0))),
        ((1, 3, 0), Some((3, 1, 0))),
        ((1, 4, 0), Some((3, 3, 0))),
        ((1, 5, 0), none),
        ((1, 6, 0), none),
        ((3, 0, 0), Some((11, 0, 0))),
        ((3, 1, 0), Some((11, 1, 0))),
        ((4, 1, 40), Some((3, 2, 0))),
        ((4, 2, 40), none),
        ((5, 0, 0), none),
        ((100, 0, 0), none),
        ((2, 0, 1280), Some((3, 4, 1260))),
        ((2, 0, 9000), Some((3, 4, 1260))),
    ];
    for (v6, v4) in [(0, 0), (1, 1), (4, 2), (5, 2), (6, 9), (7, 8), (8, 12), (23, 12), (24, 16), (39, 16)] {
        table.push(((4, 0, v6), Some((12, 0, v4 << 24))));
    }
    table.extend([2, 3, 40, 1000].map(|pointer| ((4, 0, pointer), none)));
    for ((kind, code, word), expected) in table {
        let (mut bench, packet) = received();
        let (verdict, out) = bench.v6(&V6::new(server6(), 58).build(icmp(kind, code, word, &packet)));
        match expected {
            None => assert_eq!(verdict, Verdict::Drop(Reason::IcmpType), "{kind}/{code}/{word}"),
            Some(expected) => {
                assert_eq!(verdict, Verdict::Forward, "{kind}/{code}/{word}");
                let message = check(&out);
                assert_eq!((message[0], message[1], word32(message, 4)), expected, "{kind}/{code}/{word}");
            }
        }
    }
}

#[test]
fn mtu_arithmetic_with_larger_links_and_plateaus() {
    let big = || Bench::new(Config { mtu: 4000, ipv6_mtu: 9000, ..config() });
    let tell = |reported: u32, len: usize| {
        let mut bench = big();
        let packet = bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, &vec![3; len - 28])));
        assert_eq!(packet.len(), len);
        let out = bench.pass4(&V4::new(ROUTER, 1).build(icmp(3, 4, reported, &packet[..28])));
        word32(check(&out), 4)
    };
    assert_eq!(tell(1400, 3000), 1420);
    assert_eq!(tell(1000, 3000), 1280);
    assert_eq!(tell(8000, 3000), 4020, "not more than our own IPv4 link and 20");
    // No MTU given: the greatest plateau below the Total Length.
    assert_eq!(tell(0, 3000), 2022);
    assert_eq!(tell(0, 2002), 1512);
    assert_eq!(tell(0, 1400), 1280);
}

#[test]
fn the_quoted_packet_is_the_one_the_client_sent() {
    for (next, payload) in
        [(17, udp(40_000, 53, b"data")), (6, tcp(40_001, 80, 2, b"data")), (58, icmp(128, 0, 0x9001_0005, b"data"))]
    {
        let mut bench = Bench::new(config());
        let original = V6 { class: 0x28, hops: 9, ..V6::new(server6(), next) }.build(payload);
        let packet = bench.pass6(&original);
        let out = bench.pass4(&V4 { ttl: 50, ..V4::new(ROUTER, 1) }.build(icmp(11, 0, 0, &packet)));
        assert_eq!((out[7], address6(&out, 8), address6(&out, 24)), (49, prefix().embed(ROUTER), client()));
        let quoted = &check(&out)[8..];
        check(quoted);
        assert_eq!(&quoted[40..], &original[40..], "next header {next}");
        assert_eq!((&quoted[4..7], &quoted[8..40]), (&original[4..7], &original[8..40]));
        // The hop limit is what was left, not one less.
        assert_eq!(quoted[7], 8);
    }
}

#[test]
fn a_quoted_packet_towards_ipv4_is_the_one_the_server_sent() {
    for (protocol, ports, payload) in
        [(17, (40_000, 53), udp(53, 40_000, b"data")), (6, (40_001, 80), tcp(80, 40_001, 16, b"data"))]
    {
        let mut bench = Bench::new(config());
        let open = if protocol == 6 { tcp(ports.0, ports.1, 2, b"") } else { udp(ports.0, ports.1, b"") };
        bench.pass6(&V6::new(server6(), protocol).build(open));
        let original = V4::new(SERVER, protocol).build(payload);
        let packet = bench.pass4(&original);
        let out = bench.pass6(&V6::new(server6(), 58).build(icmp(1, 4, 0, &packet)));
        assert_eq!((address4(&out, 12), address4(&out, 16)), (POOL, SERVER));
        let quoted = &check(&out)[8..];
        check(quoted);
        assert_eq!((&quoted[12..20], &quoted[20..]), (&original[12..20], &original[20..]));
        // The TTL is what was left, not one less.
        assert_eq!(quoted[8], 63);
    }
}

#[test]
fn a_quoted_packet_may_be_cut_short() {
    let (mut bench, packet) = sent();
    for len in [24, 28, 40] {
        let out = bench.pass4(&V4::new(ROUTER, 1).build(icmp(3, 1, 0, &packet[..len])));
        let quoted = &check(&out)[8..];
        assert_eq!((quoted.len(), word16(quoted, 4)), (len + 20, 108));
    }
    for len in [0, 10, 19, 20, 23] {
        let (verdict, _) = bench.v4(&V4::new(ROUTER, 1).build(icmp(3, 1, 0, &packet[..len])));
        assert_eq!(verdict, Verdict::Drop(Reason::IcmpQuote), "{len} bytes");
    }
}

#[test]
fn packet_too_big_about_a_fragment_counts_its_header() {
    let (mut bench, _) = received();
    let whole = V4::new(SERVER, 17).build(udp(53, 40_000, &[1; 1992]))[20..].to_vec();
    let first = bench.pass4(&V4 { fragment: 0x2000, ..V4::new(SERVER, 17) }.raw(&whole[..1000]));
    let out = bench.pass6(&V6::new(server6(), 58).build(icmp(2, 0, 1280, &first)));
    let message = check(&out);
    assert_eq!(word32(message, 4), 1252);
    let quoted = &message[8..];
    assert_eq!((word16(quoted, 4), word16(quoted, 6)), (0x4321, 0x2000));
}

#[test]
fn errors_that_quote_no_session_are_dropped() {
    let (mut bench, packet) = sent();
    let foreign = V4 { destination: SERVER, ..V4::new(POOL, 17) }.build(udp(50_000, 53, b""));
    assert_eq!(bench.v4(&V4::new(ROUTER, 1).build(icmp(3, 1, 0, &foreign))).0, Verdict::Drop(Reason::IcmpQuote));
    let mut damaged = V4::new(ROUTER, 1).build(icmp(3, 1, 0, &packet));
    damaged[30] ^= 0xff;
    assert_eq!(bench.v4(&damaged).0, Verdict::Drop(Reason::Checksum));
    let (mut bench, packet) = received();
    let elsewhere = V6::new(prefix().embed(ROUTER), 58).build(icmp(1, 4, 0, &packet));
    assert_eq!(bench.v6(&elsewhere).0, Verdict::Drop(Reason::IcmpQuote));
}

#[test]
fn extensions_move_with_their_length_in_the_other_unit() {
    let (mut bench, packet) = sent();
    // RFC 4884: the quoted packet padded to 128 bytes (32 words), then version 2 and one object.
    let mut body = packet;
    body.resize(128, 0);
    let extension = [0x20, 0, 0xff, 0xff, 0, 8, 1, 1, 0, 0, 0x11, 0x40];
    body.extend(extension);
    let out = bench.pass4(&V4::new(ROUTER, 1).build(icmp(11, 0, 32 << 16, &body)));
    let message = check(&out);
    let quoted = usize::from(message[4]) * 8;
    assert_eq!((message[0], message[5..8].to_vec(), quoted), (3, vec![0; 3], 152));
    assert_eq!(&message[8 + quoted..], &extension);
}
