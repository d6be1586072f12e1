//! Sections 4.2 and 4.3: ICMPv4 to ICMPv6.

use super::*;

/// The client's packet as it went out, which routers quote.
fn sent4() -> Vec<u8> {
    Ip4 { id: 0x4242, ttl: 9, tos: 0x20, ..to4(UDP) }.packet(&udp(PORT, 53, &data(100)))
}

/// The same packet as the client knows it. 4.3: "translated just like a normal IP packet (except the TTL value ...)".
fn sent6() -> Vec<u8> {
    Ip6 { hops: 9, class: 0x20, ..Ip6::new(UDP, client(), embedded(SERVER)) }.packet(&udp(PORT, 53, &data(100)))
}

fn from_router() -> Ip4 {
    Ip4 { ttl: 64, tos: 0xc0, id: 7, ..Ip4::new(ICMP, ROUTER, POOL) }
}

fn to_client() -> Ip6 {
    Ip6 { class: 0xc0, ..Ip6::new(ICMPV6, embedded(ROUTER), client()) }
}

#[track_caller]
fn becomes(kind: u8, code: u8, word: u32, expected: (u8, u8, u32)) {
    let out = Translator::open().one(&from_router().packet(&icmp(kind, code, word, &sent4())));
    let (kind6, code6, word6) = expected;
    assert_eq!(out, to_client().packet(&icmp(kind6, code6, word6, &sent6())), "type {kind} code {code}");
}

#[track_caller]
fn dropped(kind: u8, code: u8, word: u32) {
    Translator::open().silent(&from_router().packet(&icmp(kind, code, word, &sent4())));
}

/// 4.2 "Echo and Echo Reply (Type 8 and Type 0): Adjust the Type values to 128 and 129, respectively, and adjust the
/// ICMP checksum both to take the type change into account and to include the ICMPv6 pseudo-header."
#[test]
fn echo_messages() {
    let mut translator = Translator::open();
    for (kind, kind6) in [(8, 128), (0, 129)] {
        for len in [0, 1, 56, 1000] {
            let out = translator.one(&from4(ICMP).packet(&echo(kind, PORT, 3, &data(len))));
            assert_eq!(out, to6(ICMPV6).packet(&echo(kind6, PORT, 3, &data(len))));
        }
    }
}

/// 4.2 Information Request/Reply, Timestamp, Address Mask "silently drop"; Router Advertisement and Solicitation
/// "Single-hop message. Silently drop." "Unknown ICMPv4 types: Silently drop."
#[test]
fn other_queries() {
    let mut translator = Translator::open();
    for kind in (0..=255).filter(|kind| ![0, 3, 8, 11, 12].contains(kind)) {
        translator.silent(&from4(ICMP).packet(&echo(kind, PORT, 1, &data(20))));
        dropped(kind, 0, 0);
    }
}

/// 4.2 Destination Unreachable (Type 3), "Translate the Code as follows".
#[test]
fn destination_unreachable() {
    for code in [0, 1, 5, 6, 7, 8, 11, 12] {
        becomes(3, code, 0, (1, 0, 0));
    }
    becomes(3, 2, 0, (4, 1, 6));
    becomes(3, 3, 0, (1, 4, 0));
    for code in [9, 10, 13, 15] {
        becomes(3, code, 0, (1, 1, 0));
    }
    for code in (14..=255).filter(|code| *code != 15) {
        dropped(3, code, 0);
    }
}

/// 4.2 Code 4: "maximum(1280, minimum((MTU value in the Packet Too Big Message)+20, MTU_of_IPv6_nexthop,
/// (MTU_of_IPv4_nexthop)+20))".
#[test]
fn fragmentation_needed() {
    let mtu = |mtu4: usize, mtu6: usize, reported: u32| {
        let mut translator = Translator::open_with(Config { mtu: mtu4, ipv6_mtu: mtu6, ..config() });
        let out = translator.one(&from_router().packet(&icmp(3, 4, reported, &sent4())));
        let mtu = u32::from_be_bytes(out[44..48].try_into().unwrap());
        assert_eq!(out, to_client().packet(&icmp(2, 0, mtu, &sent6())));
        mtu
    };
    assert_eq!(mtu(1500, 9000, 1400), 1420);
    assert_eq!(mtu(1500, 9000, 1260), 1280);
    assert_eq!(mtu(1500, 9000, 1000), 1280);
    assert_eq!(mtu(1500, 9000, 68), 1280);
    assert_eq!(mtu(1500, 9000, 65_535), 1520);
    assert_eq!(mtu(9000, 1500, 4000), 1500);
    assert_eq!(mtu(9000, 9000, 4000), 4020);
}

/// 4.2 Code 4 "if the IPv4 router set the MTU field to zero ... the translator MUST use the plateau values specified in
/// [RFC1191] ... the greatest plateau value that is less than the returned Total Length field, but that is larger than
/// or equal to 68".
#[test]
fn plateaus() {
    let plateaus = [65_535u32, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    for total in [20u32, 69, 1006, 1492, 1493, 1500, 2002, 2003, 4352, 4353, 8167, 17_915, 32_000, 32_001, 65_535] {
        let mut translator = Translator::open_with(Config { mtu: 65_535, ipv6_mtu: 65_535, ..config() });
        let mut quoted = sent4();
        quoted[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        quoted[10..12].fill(0);
        let sum = internet_checksum(&quoted[..20]);
        quoted[10..12].copy_from_slice(&sum.to_be_bytes());
        let out = translator.one(&from_router().packet(&icmp(3, 4, 0, &quoted)));
        let plateau = plateaus.into_iter().find(|plateau| *plateau < total).unwrap_or(68);
        assert_eq!(out[44..48], (plateau + 20).max(1280).to_be_bytes(), "Total Length {total}");
    }
}

/// 4.2 "Time Exceeded (Type 11): Set the Type to 3 ... The Code is unchanged."
#[test]
fn time_exceeded() {
    becomes(11, 0, 0, (3, 0, 0));
    becomes(11, 1, 0, (3, 1, 0));
}

/// 4.2 Parameter Problem (Type 12): "Code 0 (Pointer indicates the error)" and "Code 2 (Bad length)" by figure 3,
/// "Code 1 (Missing a required option): Silently drop. Other Code values: Silently drop."
#[test]
fn parameter_problem() {
    let figure3: [&[u8]; 10] = [&[0], &[1], &[], &[], &[2, 3], &[], &[9], &[8], &[12, 13, 14, 15], &[]];
    for pointer in 0..=255u8 {
        let mapped = match pointer {
            16..=19 => Some(24),
            _ => figure3.iter().position(|pointers| pointers.contains(&pointer)),
        };
        for code in [0, 2] {
            match mapped {
                Some(pointer6) => becomes(12, code, u32::from(pointer) << 24, (4, 0, pointer6 as u32)),
                None => dropped(12, code, u32::from(pointer) << 24),
            }
        }
    }
    for code in [1, 3, 255] {
        dropped(12, code, 0);
    }
}

/// 4.1 "when translating ICMPv4 Error Messages into ICMPv6, the 'illegal' source address will be translated for the
/// purpose of trouble shooting." Hop limit and traffic class of the outer header are those of any packet.
#[test]
fn errors_from_illegal_sources() {
    for source in [[127, 0, 0, 1], [0, 0, 0, 0], [240, 0, 0, 9]] {
        let (source, mut translator) = (Ipv4Addr::from(source), Translator::open());
        let out = translator.one(&Ip4 { source, ..from_router() }.packet(&icmp(11, 0, 0, &sent4())));
        assert_eq!(out, Ip6 { source: embedded(source), ..to_client() }.packet(&icmp(3, 0, 0, &sent6())));
    }
}

/// 4.3 "The ICMP error messages containing the packet in error MUST be translated just like a normal IP packet": TCP,
/// echo and fragments, and packets cut short as RFC 792 allows (8 bytes behind the header). The Payload Length inside
/// stays that of the packet, not of what is left of it.
#[test]
fn quoted_packets() {
    for left in [8, 20, 24, 124] {
        for (protocol, upper, payload4, payload6) in [
            (UDP, UDP, udp(PORT, 53, &data(116)), udp(PORT, 53, &data(116))),
            (TCP, TCP, tcp(PORT, 80, 0x18, &data(100)), tcp(PORT, 80, 0x18, &data(100))),
            (ICMP, ICMPV6, echo(8, PORT, 1, &data(116)), echo(128, PORT, 1, &data(116))),
        ] {
            let header = Ip4 { ttl: 3, ..to4(protocol) };
            let header6 = Ip6 { hops: 3, ..Ip6::new(upper, client(), embedded(SERVER)) };
            let quoted = header.packet(&payload4);
            let expected = header6.packet(&payload6);
            let mut translator = Translator::open();
            let out = translator.one(&from_router().packet(&icmp(11, 0, 0, &quoted[..20 + left])));
            assert_eq!(out, to_client().packet(&icmp(3, 0, 0, &expected[..40 + left])));

            let first = Ip4 { mf: true, id: 0x77, ..header }.with(&to4(protocol).sealed(&payload4));
            let expected = header6.fragment(0, true, 0x77).with(&header6.sealed(&payload6));
            let out = translator.one(&from_router().packet(&icmp(11, 1, 0, &first[..20 + left])));
            assert_eq!(out, to_client().packet(&icmp(3, 1, 0, &expected[..48 + left])));
        }
    }
}

/// 4.3: options of the packet quoted are skipped like those of any packet.
#[test]
fn a_quoted_packet_with_options() {
    let quoted = Ip4 { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ttl: 9, tos: 0x20, ..to4(UDP) };
    let out =
        Translator::open().one(&from_router().packet(&icmp(11, 0, 0, &quoted.packet(&udp(PORT, 53, &data(100))))));
    assert_eq!(out, to_client().packet(&icmp(3, 0, 0, &sent6())));
}

/// 4.3 "This process MUST stop at the first embedded header and drop the packet if it contains more embedded headers."
/// RFC 6146 3.5: nor is there a translation when the packet quoted belongs to no session.
#[test]
fn quotes_that_are_not_translated() {
    let mut translator = Translator::open();
    let inner = Ip4::new(UDP, SERVER, ROUTER).packet(&udp(1, 2, b""));
    for kind in [3, 11, 12] {
        let word = u32::from(PORT) << 16;
        let error_in_error = to4(ICMP).packet(&icmp(kind, 0, word, &inner));
        translator.silent(&from_router().packet(&icmp(3, 1, 0, &error_in_error)));
    }
    let stranger = Ip4 { destination: ROUTER, ..to4(UDP) }.packet(&udp(PORT, 53, b""));
    let other_port = to4(UDP).packet(&udp(PORT, 54, b""));
    let other_source = Ip4 { source: ROUTER, ..to4(UDP) }.packet(&udp(PORT, 53, b""));
    let later = Ip4 { offset: 10, ..to4(UDP) }.packet(&udp(PORT, 53, b""));
    for quoted in [&stranger[..], &other_port, &other_source, &later, &sent4()[..20], &sent4()[..12], &[]] {
        translator.silent(&from_router().packet(&icmp(3, 1, 0, quoted)));
    }
    let mut damaged = from_router().packet(&icmp(3, 1, 0, &sent4()));
    damaged[22] ^= 1;
    translator.silent(&damaged);
}

/// 4.3 "If the translation of this 'packet in error' changes the length of the datagram, the Total Length field in the
/// outer IPv6 header MUST be updated": and it stays within 1280 bytes (RFC 4443 2.4 (c)).
#[test]
fn a_long_quote_is_cut() {
    let payload = udp(PORT, 53, &data(1400));
    let quoted = to4(UDP).packet(&payload);
    let out = Translator::open().one(&from_router().packet(&icmp(3, 1, 0, &quoted)));
    let expected = Ip6::new(UDP, client(), embedded(SERVER)).packet(&payload);
    assert_eq!(out, to_client().packet(&icmp(1, 0, 0, &expected[..1232])));
}

/// 4.2 ICMP Error Payload: "If the received ICMPv4 packet contains an ICMPv4 Extension [RFC4884] ... the ICMPv6
/// Extension length attribute MUST be adjusted accordingly"; the extension is passed as an opaque bit string. Units are
/// 4 bytes in ICMPv4 (second byte of the word) and 8 in ICMPv6 (first byte); the packet is padded with zeros to them
/// and to 128 bytes. Parameter Problem and Packet Too Big have no extensions in ICMPv6.
#[test]
fn extensions() {
    let extension = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xde, 0xad, 0xbe, 0xef];
    let mut body = sent4();
    body.resize(132, 0);
    body.extend(extension);
    for (kind, code, kind6, code6) in [(3, 1, 1, 0), (11, 0, 3, 0)] {
        let out = Translator::open().one(&from_router().packet(&icmp(kind, code, 33 << 16, &body)));
        // The padding of the IPv4 form is not part of the packet: 40 + 108 bytes, padded to a multiple of 8.
        let mut expected = sent6();
        expected.resize(152, 0);
        expected.extend(extension);
        assert_eq!(out, to_client().packet(&icmp(kind6, code6, 19 << 24, &expected)));
    }
    let out = Translator::open().one(&from_router().packet(&icmp(12, 0, 33 << 16, &body)));
    assert_eq!(out, to_client().packet(&icmp(4, 0, 0, &sent6())));
}
