//! Sections 5.2 and 5.3: ICMPv6 to ICMPv4.

use super::*;

/// The server's packet as it reached the client's network, which routers quote.
fn sent6() -> Vec<u8> {
    Ip6 { hops: 9, class: 0x20, ..to6(UDP) }.packet(&udp(53, PORT, &data(100)))
}

/// The same packet as the server knows it.
fn sent4(id: &[u8]) -> Vec<u8> {
    let id = u16::from_be_bytes([id[0], id[1]]);
    Ip4 { ttl: 9, tos: 0x20, id, ..Ip4::new(UDP, SERVER, POOL) }.packet(&udp(53, PORT, &data(100)))
}

fn from_router() -> Ip6 {
    Ip6 { hops: 64, class: 0xc0, ..Ip6::new(ICMPV6, router6(), embedded(SERVER)) }
}

/// The IPv4 side sees the client's mapped address as the router's, which has none of its own.
fn to_server(out: &[u8]) -> Ip4 {
    same_id(&Ip4 { tos: 0xc0, ..to4(ICMP) }, out)
}

#[track_caller]
fn becomes(kind: u8, code: u8, word: u32, expected: (u8, u8, u32)) {
    let out = Translator::open().one(&from_router().packet(&icmp(kind, code, word, &sent6())));
    let (kind4, code4, word4) = expected;
    assert_eq!(out, to_server(&out).packet(&icmp(kind4, code4, word4, &sent4(&out[32..34]))), "{kind} code {code}");
}

#[track_caller]
fn dropped(kind: u8, code: u8, word: u32) {
    Translator::open().silent(&from_router().packet(&icmp(kind, code, word, &sent6())));
}

/// 5.2 "Echo Request and Echo Reply (Type 128 and 129, respectively): Adjust the Type values to 8 and 0".
#[test]
fn echo_messages() {
    let mut translator = Translator::open();
    for (kind, kind4) in [(128, 8), (129, 0)] {
        for len in [0, 1, 56, 1000] {
            let out = translator.one(&from6(ICMPV6).packet(&echo(kind, PORT, 3, &data(len))));
            assert_eq!(out, same_id(&to4(ICMP), &out).packet(&echo(kind4, PORT, 3, &data(len))));
        }
    }
}

/// 5.2 MLD "Single-hop message. Silently drop." Neighbor Discovery "Single-hop message. Silently drop." "Unknown
/// informational messages: Silently drop."
#[test]
fn other_informational_messages() {
    let mut translator = Translator::open();
    for kind in 130..=255 {
        translator.silent(&from6(ICMPV6).packet(&echo(kind, PORT, 1, &data(20))));
    }
}

/// 5.2 Destination Unreachable (Type 1): "Set the Type to 3 ... Translate the Code as follows".
#[test]
fn destination_unreachable() {
    for (code, code4) in [(0, 1), (1, 10), (2, 1), (3, 1), (4, 3)] {
        becomes(1, code, 0, (3, code4, 0));
    }
    for code in 5..=255 {
        dropped(1, code, 0);
    }
}

/// 5.2 Packet Too Big (Type 2): "minimum((MTU value in the Packet Too Big Message)-20, MTU_of_IPv4_nexthop,
/// (MTU_of_IPv6_nexthop)-20)", "taking into account whether or not the packet in error includes a Fragment Header".
#[test]
fn packet_too_big() {
    let mtu = |mtu4: usize, mtu6: usize, reported: u32, fragment: bool| {
        let mut translator = Translator::open_with(Config { mtu: mtu4, ipv6_mtu: mtu6, ..config() });
        let quoted = match fragment {
            true => to6(UDP).fragment(0, true, 5).with(&to6(UDP).sealed(&udp(53, PORT, &data(100)))),
            false => sent6(),
        };
        let out = translator.one(&from_router().packet(&icmp(2, 0, reported, &quoted)));
        assert_eq!(&out[20..22], [3, 4]);
        assert_eq!(internet_checksum(&out[20..]), 0);
        u32::from_be_bytes(out[24..28].try_into().unwrap())
    };
    assert_eq!(mtu(1500, 1500, 1400, false), 1380);
    assert_eq!(mtu(1500, 1500, 1400, true), 1372);
    assert_eq!(mtu(1500, 9000, 4000, false), 1500);
    assert_eq!(mtu(9000, 1280, 4000, false), 1260);
    assert_eq!(mtu(9000, 9000, 1280, false), 1260);
    assert_eq!(mtu(9000, 9000, u32::MAX, false), 8980);
    becomes(2, 0, 1280, (3, 4, 1260));
    // RFC 4443 3.2: the code is "ignored by the receiver".
    becomes(2, 9, 1280, (3, 4, 1260));
}

/// 5.2 "Time Exceeded (Type 3): Set the Type to 11 ... The Code is unchanged."
#[test]
fn time_exceeded() {
    becomes(3, 0, 0, (11, 0, 0));
    becomes(3, 1, 0, (11, 1, 0));
}

/// 5.2 Parameter Problem (Type 4): "Code 0 (Erroneous header field encountered): Set to Type 12, Code 0, and update the
/// pointer as defined in Figure 6." "Code 1 (Unrecognized Next Header type encountered): Translate this to an ICMPv4
/// protocol unreachable (Type 3, Code 2)." "Code 2 (Unrecognized IPv6 option encountered): Silently drop."
#[test]
fn parameter_problem() {
    for pointer in (0..=60u32).chain([255, 1280, u32::MAX]) {
        let pointer4 = match pointer {
            0 | 1 => Some(pointer),
            4 | 5 => Some(2),
            6 => Some(9),
            7 => Some(8),
            8..=23 => Some(12),
            24..=39 => Some(16),
            _ => None,
        };
        match pointer4 {
            Some(pointer4) => becomes(4, 0, pointer, (12, 0, pointer4 << 24)),
            None => dropped(4, 0, pointer),
        }
    }
    becomes(4, 1, 40, (3, 2, 0));
    for code in [2, 3, 255] {
        dropped(4, code, 0);
    }
}

/// 5.2 "Unknown error messages: Silently drop."
#[test]
fn unknown_errors() {
    for kind in (0..128).filter(|kind| !(1..=4).contains(kind)) {
        dropped(kind, 0, 0);
    }
}

/// 5.3 "The ICMP error messages containing the packet in error MUST be translated just like a normal IP packet (except
/// that the TTL/Hop Limit value of the inner IPv4/IPv6 packet are not decremented)", for each protocol, cut short or not,
/// in a fragment or not; DF inside is that of 5.1 and 5.1.1.
#[test]
fn quoted_packets() {
    for left in [8, 20, 24, 124] {
        for (upper, protocol, payload6, payload4) in [
            (UDP, UDP, udp(53, PORT, &data(116)), udp(53, PORT, &data(116))),
            (TCP, TCP, tcp(80, PORT, 0x18, &data(100)), tcp(80, PORT, 0x18, &data(100))),
            (ICMPV6, ICMP, echo(129, PORT, 1, &data(116)), echo(0, PORT, 1, &data(116))),
        ] {
            let header6 = Ip6 { hops: 3, ..to6(upper) };
            let header4 = Ip4 { ttl: 3, ..Ip4::new(protocol, SERVER, POOL) };
            let mut translator = Translator::open();
            let quoted = header6.packet(&payload6);
            let out = translator.one(&from_router().packet(&icmp(3, 0, 0, &quoted[..40 + left])));
            let expected = same_id(&header4, &out[28..]).packet(&payload4);
            assert_eq!(out, to_server(&out).packet(&icmp(11, 0, 0, &expected[..20 + left])));

            let quoted = header6.fragment(0, true, 0x5_0077).with(&header6.sealed(&payload6));
            let out = translator.one(&from_router().packet(&icmp(3, 1, 0, &quoted[..48 + left])));
            let expected = Ip4 { id: 0x77, mf: true, ..header4.clone() }.with(&header4.sealed(&payload4));
            assert_eq!(out, to_server(&out).packet(&icmp(11, 1, 0, &expected[..20 + left])));
        }
    }
}

/// 5.3: the Total Length inside is that of the packet, and DF is set where the packet was larger than 1260 bytes.
#[test]
fn a_long_quote() {
    let payload = udp(53, PORT, &data(1400));
    let quoted = &to6(UDP).packet(&payload)[..1232];
    let out = Translator::open().one(&from_router().packet(&icmp(2, 0, 1280, quoted)));
    let expected = same_id(&Ip4 { df: true, ..Ip4::new(UDP, SERVER, POOL) }, &out[28..]).packet(&payload);
    assert_eq!(out, to_server(&out).packet(&icmp(3, 4, 1260, &expected[..1212])));
}

/// 5.3: extension headers of the packet quoted are skipped like those of any packet.
#[test]
fn a_quoted_packet_with_extension_headers() {
    let quoted = Ip6 { hops: 9, class: 0x20, ..to6(UDP) }.extended(60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let packet = from_router().packet(&icmp(1, 4, 0, &quoted.packet(&udp(53, PORT, &data(100)))));
    let out = Translator::open().one(&packet);
    assert_eq!(out, to_server(&out).packet(&icmp(3, 3, 0, &sent4(&out[32..34]))));
}

/// 5.3 "This process MUST stop at the first embedded header and drop the packet if it contains more embedded headers."
/// RFC 6146 3.5: nor is there a translation when the packet quoted belongs to no session.
#[test]
fn quotes_that_are_not_translated() {
    let mut translator = Translator::open();
    let inner = Ip6::new(UDP, client(), router6()).packet(&udp(1, 2, b""));
    for kind in [1, 2, 3, 4] {
        let error_in_error = to6(ICMPV6).packet(&icmp(kind, 0, u32::from(PORT) << 16, &inner));
        translator.silent(&from_router().packet(&icmp(1, 4, 0, &error_in_error)));
    }
    let stranger = Ip6 { source: embedded(ROUTER), ..to6(UDP) }.packet(&udp(53, PORT, b""));
    let other_port = to6(UDP).packet(&udp(54, PORT, b""));
    let other_client = Ip6 { destination: router6(), ..to6(UDP) }.packet(&udp(53, PORT, b""));
    let later = to6(UDP).fragment(10, true, 5).packet(&udp(53, PORT, b""));
    for quoted in [&stranger[..], &other_port, &other_client, &later, &sent6()[..40], &sent6()[..30], &[]] {
        translator.silent(&from_router().packet(&icmp(1, 4, 0, quoted)));
    }
    let mut damaged = from_router().packet(&icmp(1, 4, 0, &sent6()));
    damaged[42] ^= 1;
    translator.silent(&damaged);
}

/// 5.2 ICMP Error Payload: the length attribute of an extension (RFC 4884) is adjusted, and its bits are passed on.
#[test]
fn extensions() {
    let extension = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xde, 0xad, 0xbe, 0xef];
    let mut body = sent6();
    body.resize(152, 0);
    body.extend(extension);
    for (kind, code, kind4, code4) in [(1, 0, 3, 1), (3, 0, 11, 0)] {
        let out = Translator::open().one(&from_router().packet(&icmp(kind, code, 19 << 24, &body)));
        let mut expected = sent4(&out[32..34]);
        expected.resize(128, 0);
        expected.extend(extension);
        assert_eq!(out, to_server(&out).packet(&icmp(kind4, code4, 32 << 16, &expected)));
    }
}

/// 5.4 no error about an error (RFC 4443 2.4 (e)), and none about one that cannot be translated.
#[test]
fn an_error_is_not_answered() {
    let mut translator = Translator::open();
    translator.silent(&Ip6 { hops: 1, ..from_router() }.packet(&icmp(1, 4, 0, &sent6())));
    translator.silent(&from_router().extended(43, vec![0, 0, 0, 1, 0, 0, 0, 0]).packet(&icmp(1, 4, 0, &sent6())));
}
