//! Section 5 except ICMP: headers (5.1), fragments (5.1.1), errors (5.4), transport (5.5).

use super::*;

/// A Hop-by-Hop or Destination Options header of `units` eight bytes, filled by PadN.
fn options(units: u8) -> Vec<u8> {
    let len = usize::from(units) * 8;
    let mut bytes = vec![0; len];
    bytes[1] = units - 1;
    bytes[2..4].copy_from_slice(&[1, len as u8 - 4]);
    bytes
}

fn routing(segments_left: u8) -> Vec<u8> {
    [&[0, 2, 0, segments_left, 0, 0, 0, 0][..], &router6().octets()].concat()
}

/// 5.1 "Version: 4. Internet Header Length: 5 (no IPv4 options)." "TOS Octet: By default, copied from the IPv6 Traffic
/// Class (all 8 bits)." "Total Length: Payload length value from the IPv6 header, plus the size of the IPv4 header."
/// "Fragment Offset: All zeros. Time to Live: ... derived from Hop Limit ... decrement" "Protocol: ... ICMPv6 (58) is
/// changed to ICMPv4 (1)". The flow label has no counterpart.
#[test]
fn header_fields() {
    let mut translator = Translator::open();
    for class in [0, 0x01, 0xb8, 0xff] {
        for (upper, payload) in [(UDP, udp(PORT, 53, &data(33))), (TCP, tcp(PORT, 80, 0x10, &data(34)))] {
            let out = translator.one(&Ip6 { class, ..from6(upper) }.packet(&payload));
            assert_eq!(out, same_id(&Ip4 { tos: class, ..to4(upper) }, &out).packet(&payload));
        }
        let out = translator.one(&Ip6 { class, ..from6(ICMPV6) }.packet(&echo(128, PORT, 7, b"x")));
        assert_eq!(out, same_id(&Ip4 { tos: class, ..to4(ICMP) }, &out).packet(&echo(8, PORT, 7, b"x")));
    }
}

/// 5.1 "the translator SHOULD support an administratively configurable option to ignore the IPv6 traffic class and
/// always set the IPv4 TOS Octet to a specified value."
#[test]
fn the_tos_can_be_fixed() {
    let mut translator = Translator::open_with(Config { tos: Some(0x28), ..config() });
    let out = translator.one(&Ip6 { class: 0xb8, ..from6(UDP) }.packet(&udp(PORT, 53, b"")));
    assert_eq!(out, same_id(&Ip4 { tos: 0x28, ..to4(UDP) }, &out).packet(&udp(PORT, 53, b"")));
}

/// 5.1 "the translator (as any router) MUST check for zero and send the ... ICMPv6 'Hop Limit Exceeded' error."
#[test]
fn hop_limit_is_decremented_and_checked() {
    let mut translator = Translator::open();
    let payload = udp(PORT, 53, b"hops");
    for hops in [2, 255] {
        let out = translator.one(&Ip6 { hops, ..from6(UDP) }.packet(&payload));
        assert_eq!(out, same_id(&Ip4 { ttl: hops - 1, ..to4(UDP) }, &out).packet(&payload));
    }
    for hops in [0, 1] {
        let packet = Ip6 { hops, ..from6(UDP) }.packet(&payload);
        let out = translator.one(&packet);
        assert_eq!(out, error6(3, 0, 0, &packet, &out));
    }
}

/// 5.1 "If the translator gets an illegal source address (e.g., ::1, etc.), the translator SHOULD silently drop the
/// packet." RFC 6146 3.5 adds sources in the translation prefix.
#[test]
fn illegal_sources_are_dropped_silently() {
    let mut translator = Translator::open();
    for source in ["::", "::1", "fe80::1", "ff02::1", "2001:db8:64::c000:201"] {
        let packet = Ip6 { source: source.parse().unwrap(), ..from6(UDP) }.packet(&udp(PORT, 53, b""));
        translator.silent(&packet);
    }
}

/// 5 and 5.1 "Flags: ... The More Fragments flag is set to zero. The Don't Fragment (DF) flag is set as follows: If the
/// size of the translated IPv4 packet is less than or equal to 1260 bytes, it is set to zero; otherwise, it is set to
/// one." "Identification: Set according to a Fragment Identification generator at the translator."
#[test]
fn df_depends_on_the_size() {
    let mut translator = Translator::open();
    let mut seen = std::collections::BTreeSet::new();
    for (len, df) in [(28, false), (1259, false), (1260, false), (1261, true), (1500, true)] {
        let payload = udp(PORT, 53, &data(len - 28));
        let out = translator.one(&from6(UDP).packet(&payload));
        assert_eq!(out, same_id(&Ip4 { df, ..to4(UDP) }, &out).packet(&payload));
        assert!(seen.insert(out[4..6].to_vec()), "identifications differ");
    }
}

/// 5.1 (and 1.4 "the translator MUST send a Packet Too Big error message or fragment the packet when the packet size
/// exceeds the MTU of the next-hop interface"): the MTU reported is that of IPv4 plus 20.
#[test]
fn too_big_for_ipv4() {
    let mut translator = Translator::open_with(Config { mtu: 1400, ..config() });
    let payload = tcp(PORT, 80, 0x10, &data(1400 - 44));
    let out = translator.one(&from6(TCP).packet(&payload));
    assert_eq!(out, same_id(&Ip4 { df: true, ..to4(TCP) }, &out).packet(&payload));
    let packet = from6(TCP).packet(&tcp(PORT, 80, 0x10, &data(1401 - 44)));
    let out = translator.one(&packet);
    assert_eq!(out, error6(2, 0, 1420, &packet, &out));
    assert_eq!(out.len(), 1280);
}

/// 5.1 "If any of an IPv6 Hop-by-Hop Options header, Destination Options header, or Routing header with the Segments
/// Left field equal to zero are present in the IPv6 packet, those IPv6 extension headers MUST be ignored ... the Total
/// Length field and the Protocol field are adjusted to 'skip' these extension headers."
#[test]
fn extension_headers_are_skipped() {
    let mut translator = Translator::open();
    let payload = udp(PORT, 53, b"extended");
    let chains: [&[(u8, Vec<u8>)]; 5] = [
        &[(0, options(1))],
        &[(60, options(3))],
        &[(43, routing(0))],
        &[(0, options(2)), (60, options(1)), (43, routing(0)), (60, options(1))],
        &[(60, options(31))],
    ];
    for chain in chains {
        let packet = Ip6 { extensions: chain.to_vec(), ..from6(UDP) };
        let out = translator.one(&packet.packet(&payload));
        assert_eq!(out, same_id(&to4(UDP), &out).packet(&payload));
    }
}

/// 5.1 "If a Routing header with a non-zero Segments Left field is present, then the packet MUST NOT be translated, and
/// an ICMPv6 'parameter problem/erroneous header field encountered' (Type 4, Code 0) error message, with the Pointer
/// field indicating the first byte of the Segments Left field, SHOULD be returned to the sender."
#[test]
fn segments_left_are_refused() {
    let mut translator = Translator::open();
    for (before, pointer) in [(0, 43), (2, 59)] {
        let mut packet = from6(UDP);
        if before > 0 {
            packet = packet.extended(60, options(before));
        }
        let packet = packet.extended(43, routing(1)).packet(&udp(PORT, 53, b""));
        let out = translator.one(&packet);
        assert_eq!(out, error6(4, 0, pointer, &packet, &out));
    }
}

/// 5.1.1 "Total Length: ... Payload Length ... minus the length of the extension headers up to the Fragmentation Header,
/// minus 8 for the Fragment Header, plus the size of the IPv4 header." "Identification: Copied from the low-order 16
/// bits in the Identification field in the Fragment Header." "MF flag is copied from the M flag"; "DF flag is cleared";
/// "Fragment Offset: ... copied"; "Protocol: For ICMPv6 (58), it is changed to ICMPv4 (1); otherwise, ... copied".
#[test]
fn fragments() {
    for extensions in [vec![], vec![(0, options(1)), (60, options(2))]] {
        let mut translator = Translator::open();
        let payload = udp(PORT, 53, &data(3992));
        let (in6, out4) = (from6(UDP).sealed(&payload), to4(UDP).sealed(&payload));
        for (offset, end) in [(0, 1232), (1232, 2696), (2696, 4000)] {
            let (more, at) = (end < 4000, offset as u16 / 8);
            let packet = Ip6 { extensions: extensions.clone(), ..from6(UDP) }.fragment(at, more, 0xcafe_d00d);
            let out = translator.one(&packet.with(&in6[offset..end]));
            assert_eq!(out, Ip4 { id: 0xd00d, mf: more, offset: at, ..to4(UDP) }.with(&out4[offset..end]));
        }
    }
}

/// 5.1.1 for a whole packet with a Fragment header (RFC 6946), also where it is larger than 1260 bytes: DF is clear.
#[test]
fn an_atomic_fragment() {
    let mut translator = Translator::open();
    for len in [4, 1400] {
        let payload = udp(PORT, 53, &data(len));
        let out = translator.one(&from6(UDP).fragment(0, false, 0x0001_0007).packet(&payload));
        assert_eq!(out, Ip4 { id: 7, ..to4(UDP) }.packet(&payload));
    }
}

/// 5.1.1 and RFC 791 2.3: with DF clear, what is larger than the IPv4 MTU is fragmented here.
#[test]
fn a_fragment_larger_than_the_ipv4_mtu() {
    let mut translator = Translator::open_with(Config { mtu: 1280, ..config() });
    let payload = udp(PORT, 53, &data(2872));
    let (in6, out4) = (from6(UDP).sealed(&payload), to4(UDP).sealed(&payload));
    let out = translator.run(&from6(UDP).fragment(0, true, 9).with(&in6[..1440]));
    let part =
        |from: usize, to: usize| Ip4 { id: 9, mf: true, offset: from as u16 / 8, ..to4(UDP) }.with(&out4[from..to]);
    assert_eq!(out, [part(0, 1256), part(1256, 1440)]);
}

/// 5.1.1 "If the Next Header field of the Fragment Header is an extension header (except ESP, but including the
/// Authentication Header (AH)), then the packet SHOULD be dropped and logged." 5.4: the error is 1, code 1.
#[test]
fn an_extension_header_behind_the_fragment_header() {
    let mut translator = Translator::open();
    for (kind, bytes) in [(0, options(1)), (60, options(1)), (43, routing(0)), (51, vec![0, 2, 0, 0, 0, 0, 0, 1])] {
        for more in [false, true] {
            let packet = from6(UDP).fragment(0, more, 5).extended(kind, bytes.clone()).packet(&udp(PORT, 53, &data(8)));
            let out = translator.one(&packet);
            assert_eq!(out, error6(1, 1, 0, &packet, &out), "next header {kind}");
        }
    }
}

/// 5.5 "Translators MUST do this for TCP, UDP, and ICMP." A UDP checksum that comes out as zero is sent as all ones.
#[test]
fn checksums_of_all_lengths() {
    let mut translator = Translator::open();
    for len in 0..200 {
        let payload = tcp(PORT, 80, 0x10, &data(len));
        let out = translator.one(&from6(TCP).packet(&payload));
        assert_eq!(out, same_id(&to4(TCP), &out).packet(&payload));
        let payload = echo(128, PORT, len as u16, &data(len));
        let out = translator.one(&from6(ICMPV6).packet(&payload));
        assert_eq!(out, same_id(&to4(ICMP), &out).packet(&echo(8, PORT, len as u16, &data(len))));
    }
    for word in 0..=u16::MAX {
        let payload = udp(PORT, 53, &word.to_be_bytes());
        let out = translator.one(&from6(UDP).packet(&payload));
        assert_ne!(&out[26..28], [0, 0]);
        assert_eq!(out, same_id(&to4(UDP), &out).packet(&payload));
    }
}

/// RFC 8200 section 8.1: a UDP datagram over IPv6 without checksum is discarded.
#[test]
fn udp_without_checksum_is_dropped() {
    Translator::open().silent(&from6(UDP).with(&udp(PORT, 53, b"none")));
}

/// 5.4 and RFC 6146 3.4: a protocol that is neither TCP, UDP nor ICMPv6 gets Port Unreachable, whether it is known, has
/// nothing behind it (59) or hides what is behind it (50, 51).
#[test]
fn other_protocols() {
    let mut translator = Translator::open();
    for upper in [33, 47, 50, 51, 59, 132, 1, 2] {
        let packet = from6(upper).packet(&data(40));
        let out = translator.one(&packet);
        assert_eq!(out, error6(1, 4, 0, &packet, &out), "next header {upper}");
    }
}

/// 5.6: an address outside the prefix represents no IPv4 host; and what contradicts itself is dropped silently.
#[test]
fn what_is_dropped_without_an_answer() {
    let mut translator = Translator::open();
    translator.silent(&Ip6 { destination: router6(), ..from6(UDP) }.packet(&udp(PORT, 53, b"")));
    let good = from6(UDP).extended(0, options(1)).packet(&udp(PORT, 53, b"length"));
    for len in 1..good.len() {
        translator.silent(&good[..len]);
    }
    let mut beyond = options(1);
    beyond[1] = 9;
    translator.silent(&from6(UDP).extended(60, beyond).packet(&udp(PORT, 53, b"")));
    translator.silent(&from6(TCP).with(&tcp(PORT, 80, 0x10, b"")[..12]));
}
