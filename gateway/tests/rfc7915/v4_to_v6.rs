//! Section 4 except ICMP: headers (4.1), errors (4.4), transport (4.5).

use super::*;

/// 4.1 "Traffic Class: By default, copied from the IP Type Of Service (TOS) octet." "Flow Label: 0 (all zero bits)."
/// "Payload Length: Total length value from the IPv4 header, minus the size of the IPv4 header and IPv4 options".
/// "Next Header: For ICMPv4 (1), it is changed to ICMPv6 (58); otherwise, the protocol field MUST be copied".
/// "Hop Limit: The hop limit is derived from the TTL value ... it needs to decrement".
#[test]
fn header_fields() {
    let mut translator = Translator::open();
    for tos in [0, 0x01, 0xb8, 0xff] {
        for (protocol, upper, payload) in
            [(UDP, UDP, udp(53, PORT, &data(33))), (TCP, TCP, tcp(80, PORT, 0x12, &data(34)))]
        {
            let out = translator.one(&Ip4 { tos, ..from4(protocol) }.packet(&payload));
            assert_eq!(out, Ip6 { class: tos, ..to6(upper) }.packet(&payload));
        }
        let out = translator.one(&Ip4 { tos, ..from4(ICMP) }.packet(&echo(0, PORT, 7, b"x")));
        assert_eq!(out, Ip6 { class: tos, ..to6(ICMPV6) }.packet(&echo(129, PORT, 7, b"x")));
    }
}

/// 4.1 "the translator SHOULD ... support an administratively configurable option to ignore the IPv4 TOS and always set
/// the IPv6 traffic class to zero."
#[test]
fn the_traffic_class_can_be_fixed() {
    let mut translator = Translator::open_with(Config { traffic_class: Some(0), ..config() });
    let payload = udp(53, PORT, b"");
    assert_eq!(translator.one(&Ip4 { tos: 0xb8, ..from4(UDP) }.packet(&payload)), to6(UDP).packet(&payload));
}

/// 4.1 "the translator (as any router) MUST check for zero and send the ICMPv4 'TTL Exceeded' ... error".
#[test]
fn ttl_is_decremented_and_checked() {
    let mut translator = Translator::open();
    let payload = udp(53, PORT, b"ttl");
    for ttl in [2, 255] {
        let out = translator.one(&Ip4 { ttl, ..from4(UDP) }.packet(&payload));
        assert_eq!(out, Ip6 { hops: ttl - 1, ..to6(UDP) }.packet(&payload));
    }
    for ttl in [0, 1] {
        let packet = Ip4 { ttl, ..from4(UDP) }.packet(&payload);
        let out = translator.one(&packet);
        assert_eq!(out, error4(11, 0, 0, &packet, &out));
    }
}

/// 4.1 "If the translator gets an illegal source address (e.g., 0.0.0.0, 127.0.0.1, etc.), the translator SHOULD
/// silently drop the packet".
#[test]
fn illegal_sources_are_dropped_silently() {
    let mut translator = Translator::open();
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]] {
        translator.silent(&Ip4 { source: source.into(), ..from4(UDP) }.packet(&udp(53, PORT, b"")));
    }
}

/// 4.1 "If any IPv4 options are present in the IPv4 packet, they MUST be ignored and the packet translated normally".
#[test]
fn options_are_ignored() {
    let mut translator = Translator::open();
    let payload = udp(53, PORT, b"options");
    let security = [&[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[1]].concat();
    let record_route = vec![7, 11, 8, 198, 51, 100, 9, 0, 0, 0, 0, 0];
    let timestamp = vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let stream = vec![136, 4, 1, 2];
    let router_alert = vec![148, 4, 0, 0];
    let nonsense = vec![200, 0, 0, 0];
    for options in [security, record_route, timestamp, stream, router_alert, vec![1; 40], vec![0; 4], nonsense] {
        assert_eq!(translator.one(&Ip4 { options, ..from4(UDP) }.packet(&payload)), to6(UDP).packet(&payload));
    }
}

/// 4.1 "if an unexpired source route option is present, then the packet MUST instead be discarded, and an ICMPv4
/// 'Destination Unreachable, Source Route Failed' (Type 3, Code 5) error message SHOULD be returned to the sender."
#[test]
fn an_unexpired_source_route_is_refused() {
    let mut translator = Translator::open();
    let payload = udp(53, PORT, b"route");
    for kind in [131, 137] {
        let route = |pointer| vec![kind, 11, pointer, 198, 51, 100, 7, 198, 51, 100, 8, 0];
        for pointer in [4, 8] {
            let packet = Ip4 { options: route(pointer), ..from4(UDP) }.packet(&payload);
            let out = translator.one(&packet);
            assert_eq!(out, error4(3, 5, 0, &packet, &out));
        }
        let expired = Ip4 { options: route(12), ..from4(UDP) };
        assert_eq!(translator.one(&expired.packet(&payload)), to6(UDP).packet(&payload));
    }
}

/// 4 "When the IPv4 sender does not set the DF bit, the translator MUST NOT include the Fragment Header for the
/// non-fragmented IPv6 packets." 4.1 the resulting packet may have up to 1280 bytes.
#[test]
fn without_df_a_packet_that_fits_has_no_fragment_header() {
    let mut translator = Translator::open();
    for df in [false, true] {
        let payload = udp(53, PORT, &data(1260 - 28));
        let out = translator.one(&Ip4 { df, ..from4(UDP) }.packet(&payload));
        assert_eq!((out.len(), out), (1280, to6(UDP).packet(&payload)));
    }
}

/// 4.1 "If the DF flag is not set and the IPv4 packet will result in an IPv6 packet larger than ... 1280 bytes, the
/// packet SHOULD be fragmented so that the resulting IPv6 packet (with Fragment Header added to each fragment) will be
/// less than or equal to lowest-ipv6-mtu"; "the IPv4 packets should be fragmented so that their length, excluding the
/// IPv4 header, is at most 1232 bytes". "Identification: ... low-order 16 bits copied from the Identification field in
/// the IPv4 header. The high-order 16 bits set to zero."
#[test]
fn without_df_a_larger_packet_is_fragmented() {
    let mut translator = Translator::open();
    for (len, pieces) in [(1261 - 20, 2), (1480, 2), (4000, 4), (65_515, 54)] {
        let payload = udp(53, PORT, &data(len - 8));
        let whole = to6(UDP).sealed(&payload);
        let out = translator.run(&Ip4 { df: false, ..from4(UDP) }.packet(&payload));
        assert_eq!(out.len(), pieces);
        for (index, (packet, part)) in out.iter().zip(whole.chunks(1232)).enumerate() {
            let expected = to6(UDP).fragment(index as u16 * 154, index + 1 < pieces, 0x1234).with(part);
            assert_eq!(*packet, expected);
        }
    }
}

/// 4.1 "The translator MUST provide a configuration function ... to adjust the threshold of the minimum IPv6 MTU to a
/// value greater than 1280 bytes".
#[test]
fn the_lowest_ipv6_mtu_can_be_raised() {
    let mut translator = Translator::open_with(Config { ipv6_mtu: 1500, ..config() });
    let payload = udp(53, PORT, &data(1480 - 28));
    assert_eq!(translator.one(&Ip4 { df: false, ..from4(UDP) }.packet(&payload)), to6(UDP).packet(&payload));
    let out = translator.run(&Ip4 { df: false, ..from4(UDP) }.packet(&udp(53, PORT, &data(1481 - 28))));
    assert_eq!(out.iter().map(Vec::len).collect::<Vec<_>>(), [1496, 48 + 1461 - 1448]);
}

/// 4.1 "If the DF bit is set and the MTU of the next-hop interface is less than the total length value of the IPv4 packet
/// plus 20, the translator MUST send an ICMPv4 'Fragmentation Needed' error message to the IPv4 source address." The MTU
/// it names is the largest that passes: 20 less than that of IPv6, and 8 more less with a Fragment header.
#[test]
fn with_df_a_larger_packet_is_refused() {
    let mut translator = Translator::open();
    let packet = from4(TCP).packet(&tcp(80, PORT, 0x10, &data(1261 - 44)));
    let out = translator.one(&packet);
    assert_eq!(out, error4(3, 4, 1260, &packet, &out));
    let fragment = Ip4 { mf: true, ..from4(TCP) }.with(&from4(TCP).sealed(&tcp(80, PORT, 0x10, &data(1240 - 24))));
    let out = translator.one(&fragment);
    assert_eq!(out, error4(3, 4, 1252, &fragment, &out));
    // About a later fragment there are no errors (RFC 1812 section 4.3.2.7).
    let whole = from4(UDP).sealed(&udp(53, PORT, &data(1992)));
    assert_eq!(translator.run(&Ip4 { mf: true, ..from4(UDP) }.with(&whole[..800])).len(), 1);
    translator.silent(&Ip4 { mf: false, offset: 100, ..from4(UDP) }.with(&whole[760..]));
}

/// 4.1 "If there is a need to add a Fragment Header (the packet is a fragment ...)": Payload Length 8 more, Next Header
/// 44, "Fragment Offset: Copied", "M flag: Copied from the More Fragments bit", Identification as above. 4: "the rules
/// ... ensure that ... the low-order 16 bits of the fragment identification are carried end-to-end".
#[test]
fn fragments_get_a_fragment_header() {
    for df in [false, true] {
        let mut translator = Translator::open();
        let payload = udp(53, PORT, &data(2992));
        let (in4, out6) = (from4(UDP).sealed(&payload), to6(UDP).sealed(&payload));
        for (offset, end, more) in [(0, 1000, true), (1000, 2000, true), (2000, 3000, false)] {
            let fragment = Ip4 { df, mf: more, offset: offset as u16 / 8, ..from4(UDP) };
            let out = translator.one(&fragment.with(&in4[offset..end]));
            assert_eq!(out, to6(UDP).fragment(offset as u16 / 8, more, 0x1234).with(&out6[offset..end]));
        }
    }
}

/// 4 and 4.1: a fragment too large for the IPv6 MTU, with DF clear, is fragmented further.
#[test]
fn a_large_fragment_is_fragmented_further() {
    let mut translator = Translator::open();
    let payload = udp(53, PORT, &data(2992));
    let (in4, out6) = (from4(UDP).sealed(&payload), to6(UDP).sealed(&payload));
    let first = translator.run(&Ip4 { df: false, mf: true, ..from4(UDP) }.with(&in4[..1480]));
    let last = translator.run(&Ip4 { df: false, offset: 185, ..from4(UDP) }.with(&in4[1480..]));
    let expected = [(0, 1232, true), (1232, 1480, true), (1480, 2712, true), (2712, 3000, false)];
    let expected =
        expected.map(|(from, to, more)| to6(UDP).fragment(from as u16 / 8, more, 0x1234).with(&out6[from..to]));
    assert_eq!([first, last].concat(), expected);
}

/// 4.5 "For UDP packets that do not contain a UDP checksum (i.e., the UDP checksum field is zero)": "Calculating an IPv6
/// checksum and forwarding the packet". RFC 6146 3.4: fragments of such a packet are put together first.
#[test]
fn udp_without_checksum() {
    let mut translator = Translator::open();
    for len in [0, 1, 500, 501] {
        let payload = udp(53, PORT, &data(len));
        assert_eq!(translator.one(&from4(UDP).with(&payload)), to6(UDP).packet(&payload));
    }
    let payload = udp(53, PORT, &data(2392));
    let part = |offset: usize, end: usize| {
        Ip4 { df: false, mf: end < 2400, offset: offset as u16 / 8, ..from4(UDP) }.with(&payload[offset..end])
    };
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let parts = [part(0, 800), part(800, 1600), part(1600, 2400)];
        let out: Vec<_> = order.iter().flat_map(|index| translator.run(&parts[*index])).collect();
        let whole = to6(UDP).sealed(&payload);
        let expected = [(0, 1232, true), (1232, 2400, false)];
        let expected =
            expected.map(|(from, to, more)| to6(UDP).fragment(from as u16 / 8, more, 0x1234).with(&whole[from..to]));
        assert_eq!(out, expected);
    }
}

/// 4.5 "the recalculation and updating of the transport-layer headers that contain pseudo-headers need to be performed.
/// Translators MUST do this for TCP and ICMP packets and for UDP packets that contain a UDP checksum". A UDP checksum
/// that comes out as zero is sent as all ones (RFC 768).
#[test]
fn checksums_of_all_lengths() {
    let mut translator = Translator::open();
    for len in 0..200 {
        let payload = tcp(80, PORT, 0x10, &data(len));
        assert_eq!(translator.one(&from4(TCP).packet(&payload)), to6(TCP).packet(&payload));
        let payload = udp(53, PORT, &[len as u8, 0xff]);
        assert_eq!(translator.one(&from4(UDP).packet(&payload)), to6(UDP).packet(&payload));
    }
    for word in 0..=u16::MAX {
        let payload = udp(53, PORT, &word.to_be_bytes());
        let out = translator.one(&from4(UDP).packet(&payload));
        assert_ne!(&out[46..48], [0, 0]);
        assert_eq!(out, to6(UDP).packet(&payload));
    }
}

/// 4.5 "The data portion of the packet is left unchanged": also a wrong checksum stays wrong, for the receiver to see.
#[test]
fn a_wrong_checksum_is_not_repaired() {
    let mut translator = Translator::open();
    let mut payload = from4(TCP).sealed(&tcp(80, PORT, 0x10, b"damaged"));
    payload[30] ^= 0x55;
    let out = translator.one(&from4(TCP).with(&payload));
    assert_ne!(out, to6(TCP).packet(&payload));
    assert_eq!(&out[60..], &payload[20..]);
}

/// 4.4 "If the IPv4 packet is discarded, then the translator SHOULD be able to send back an ICMPv4 error message ...
/// unless otherwise specified in ... [RFC6146]": other protocols get Protocol Unreachable (RFC 6146 3.4). 4.2 "IGMP ...
/// SHOULD be silently dropped".
#[test]
fn other_protocols() {
    let mut translator = Translator::open();
    for protocol in [33, 47, 50, 51, 58, 132, 255] {
        let packet = from4(protocol).packet(&data(40));
        let out = translator.one(&packet);
        assert_eq!(out, error4(3, 2, 0, &packet, &out), "protocol {protocol}");
    }
    translator.silent(&from4(2).packet(&[0x16, 0, 0, 0, 224, 0, 0, 5]));
}

/// 4.4 "The translator SHOULD allow an administrator to configure whether the ICMPv4 error messages are sent,
/// rate-limited, or not sent." 5.4 says the same of ICMPv6.
#[test]
fn errors_are_limited_or_not_sent() {
    for (errors_per_second, sent) in [(0, 0), (5, 5)] {
        let mut translator = Translator::open_with(Config { errors_per_second, ..config() });
        let packets = [
            Ip4 { ttl: 1, ..from4(UDP) }.packet(&udp(53, PORT, b"")),
            Ip6 { hops: 1, ..from6(UDP) }.packet(&udp(PORT, 53, b"")),
        ];
        assert_eq!((0..20).map(|turn| translator.run(&packets[turn % 2]).len()).sum::<usize>(), sent);
    }
}

/// 4.4 no error about an error, about a fragment other than the first, or about a packet with a damaged header (RFC
/// 1812 section 4.3.2.7); and 4.6: an address that represents no IPv6 host is not translated.
#[test]
fn what_is_dropped_without_an_answer() {
    let mut translator = Translator::open();
    let quoted = Ip4 { ttl: 5, ..to4(UDP) }.packet(&udp(PORT, 53, b""));
    translator.silent(&Ip4 { ttl: 1, ..from4(ICMP) }.packet(&icmp(3, 1, 0, &quoted)));
    translator.silent(&Ip4 { ttl: 1, offset: 5, ..from4(UDP) }.with(&data(64)));
    let good = from4(UDP).packet(&udp(53, PORT, b"header"));
    for at in [0, 1, 4, 8, 10, 12] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        translator.silent(&bad);
    }
    translator.silent(&Ip4 { destination: ROUTER, ..from4(UDP) }.packet(&udp(53, PORT, b"")));
    for len in 0..28 {
        translator.silent(&good[..len.max(1)]);
    }
}
