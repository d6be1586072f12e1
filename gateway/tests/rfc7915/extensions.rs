//! RFC 4884 extensions in translated errors (sections 4.2 and 5.2, ICMP Error Payload): the length attribute is adjusted,
//! the packet is padded to its unit (4 bytes in ICMPv4, 8 in ICMPv6) and to 128 bytes, the extension is an opaque string,
//! and the whole stays within 1280 bytes: the end of the packet gives way first, then the extension as a whole.

use super::*;

/// The client's UDP packet with `len` bytes of data, as it went out and as the client knows it.
fn sent(len: usize) -> (Vec<u8>, Vec<u8>) {
    let payload = udp(PORT, 53, &data(len));
    let df = len + 28 > 1260;
    (
        Ip4 { id: 0x4242, ttl: 9, df, ..to4(UDP) }.packet(&payload),
        Ip6 { hops: 9, ..Ip6::new(UDP, client(), embedded(SERVER)) }.packet(&payload),
    )
}

/// The server's UDP packet with `len` bytes of data, as it reached the client's network and as the server knows it.
fn received(len: usize, id: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let payload = udp(53, PORT, &data(len));
    let header4 = Ip4 { ttl: 9, df: len + 28 > 1260, ..Ip4::new(UDP, SERVER, POOL) };
    (
        Ip6 { hops: 9, ..to6(UDP) }.packet(&payload),
        Ip4 { id: u16::from_be_bytes([id[0], id[1]]), ..header4 }.packet(&payload),
    )
}

/// Brings `packet` to `len` bytes, by cutting or with zeros, and puts `extension` behind it.
fn body(packet: &[u8], len: usize, extension: &[u8]) -> Vec<u8> {
    let mut body = packet.to_vec();
    body.resize(len, 0);
    body.extend(extension);
    body
}

/// `fields4` and `fields6` are the length attributes, `None` where the packet is the rest of the message.
#[track_caller]
fn from_v4(data_len: usize, extension_len: usize, field4: u8, field6: Option<u8>) {
    let (packet4, packet6) = sent(data_len);
    let extension = data(extension_len);
    let body4 = body(&packet4, usize::from(field4) * 4, &extension);
    let from = Ip4 { ttl: 64, id: 7, ..Ip4::new(ICMP, ROUTER, POOL) };
    let out = Translator::open_with(Config { mtu: 4000, ..config() }).one(&from.packet(&icmp(
        3,
        3,
        u32::from(field4) << 16,
        &body4,
    )));
    let body6 = match field6 {
        Some(field) => body(&packet6, usize::from(field) * 8, &extension),
        None => packet6[..packet6.len().min(1232)].to_vec(),
    };
    let word = u32::from(field6.unwrap_or(0)) << 24;
    assert_eq!(out, Ip6::new(ICMPV6, embedded(ROUTER), client()).packet(&icmp(1, 4, word, &body6)));
    assert!(out.len() <= 1280);
}

#[track_caller]
fn from_v6(data_len: usize, extension_len: usize, field6: u8, field4: Option<u8>) {
    let (packet6, _) = received(data_len, &[0, 0]);
    let extension = data(extension_len);
    let body6 = body(&packet6, usize::from(field6) * 8, &extension);
    let from = Ip6 { hops: 64, ..Ip6::new(ICMPV6, router6(), embedded(SERVER)) };
    let out = Translator::open_with(Config { ipv6_mtu: 4000, ..config() }).one(&from.packet(&icmp(
        1,
        4,
        u32::from(field6) << 24,
        &body6,
    )));
    let (_, packet4) = received(data_len, &out[32..34]);
    let body4 = match field4 {
        Some(field) => body(&packet4, usize::from(field) * 4, &extension),
        None => packet4.clone(),
    };
    let word = u32::from(field4.unwrap_or(0)) << 16;
    let header = same_id(&Ip4 { df: out.len() > 1260, ..Ip4::new(ICMP, POOL, SERVER) }, &out);
    assert_eq!(out, header.packet(&icmp(3, 3, word, &body4)));
    assert!(out.len() <= 1280);
}

/// A packet of 28 bytes IPv4 and 48 bytes IPv6 and its data; whole and without padding.
#[test]
fn the_length_changes_with_the_header() {
    from_v4(104, 20, 33, Some(19));
    from_v4(104, 40, 33, Some(19));
    from_v6(104, 20, 19, Some(33));
    from_v6(480, 40, 66, Some(127));
}

/// ICMPv6 counts in units of eight bytes, ICMPv4 of four: padding comes and goes.
#[test]
fn padding_follows_the_unit() {
    from_v4(98, 20, 32, Some(19));
    from_v4(100, 20, 32, Some(19));
    from_v4(101, 20, 33, Some(19));
    from_v6(90, 20, 18, Some(32));
    from_v6(74, 20, 16, Some(32));
    from_v6(98, 20, 19, Some(32));
}

/// Less than 128 bytes before an extension are padded to them, also where the sender did not.
#[test]
fn a_short_packet_is_padded_to_128_bytes() {
    from_v4(0, 40, 7, Some(16));
    from_v6(0, 40, 6, Some(32));
    from_v6(80, 420, 16, Some(32));
    from_v4(0, 40, 32, Some(16));
}

/// 1232 bytes behind the first eight of ICMPv6, 1252 of ICMPv4.
#[test]
fn the_end_of_the_packet_gives_way_to_the_extension() {
    from_v4(544, 640, 143, Some(74));
    from_v4(548, 640, 144, Some(74));
    from_v4(552, 640, 145, Some(74));
    from_v4(992, 192, 255, Some(130));
    from_v4(992, 200, 255, Some(129));
    from_v4(992, 640, 255, Some(74));
    from_v4(992, 1104, 255, Some(16));
    from_v4(104, 1080, 33, Some(19));
    // The length of ICMPv4 is a byte: no more than 1020 bytes before an extension.
    from_v6(1032, 40, 135, Some(255));
}

/// "the ICMPv4 extension SHOULD be simply truncated": a part of an object cannot be read, so all of it goes.
#[test]
fn an_extension_without_room_goes_as_a_whole() {
    from_v4(100, 1105, 32, None);
    from_v4(992, 1105, 255, None);
}
