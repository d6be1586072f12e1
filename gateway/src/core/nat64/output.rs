//! New IP headers before a transport payload, in place, and fragmentation into the sink where a packet is too large.
//!
//! Fragments are made front to back: each header overwrites bytes of the piece before it, which has left already. So
//! fragmentation needs no memory either.

use super::Sink;
use crate::core::frame::{Frame, SegmentKind};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, FragmentHeader, Ipv6Header};
use crate::wire::udp::{self, UdpHeader};
use crate::wire::{checksum, put16};

/// IPv6 and Fragment headers.
pub const V6_HEADERS: usize = ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN;

/// Where the result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emitted {
    Frame,
    /// So many packets went to the sink.
    Sink(u64),
}

/// Puts an IPv4 header before the transport payload in `frame`; `header.total_len` is set here.
///
/// An ordinary packet larger than `mtu` is fragmented whatever its DF bit: the caller has answered those with DF set.
pub fn emit_v4(frame: &mut Frame, mut header: Ipv4Header, mtu: usize, sink: &mut impl Sink) -> Emitted {
    let len = frame.len();
    frame.push(ipv4::HEADER_LEN);
    if frame.offload.kind != SegmentKind::None || ipv4::HEADER_LEN + len <= mtu {
        header.total_len = ipv4::HEADER_LEN + len;
        header.emit(frame.bytes_mut());
        return Emitted::Frame;
    }
    let (base, last_has_more) = (header.fragment_offset, header.more_fragments);
    let room = (mtu - ipv4::HEADER_LEN) & !7;
    let bytes = frame.bytes_mut();
    let (mut at, mut count) = (0, 0);
    while at < len {
        let piece = room.min(len - at);
        header.total_len = ipv4::HEADER_LEN + piece;
        header.fragment_offset = base + at;
        header.more_fragments = last_has_more || at + piece < len;
        header.emit(&mut bytes[at..]);
        sink.packet(&bytes[at..at + ipv4::HEADER_LEN + piece]);
        at += piece;
        count += 1;
    }
    Emitted::Sink(count)
}

/// Puts IPv6 headers before the transport payload in `frame`; `header.payload_len` is set here.
///
/// `fragment` is the Fragment header of a packet that was one; `identification` names the fragments made here.
/// The frame needs 48 bytes of headroom.
pub fn emit_v6(
    frame: &mut Frame,
    mut header: Ipv6Header,
    fragment: Option<FragmentHeader>,
    identification: u32,
    mtu: usize,
    sink: &mut impl Sink,
) -> Emitted {
    let len = frame.len();
    let extra = if fragment.is_some() { ipv6::FRAGMENT_HEADER_LEN } else { 0 };
    if frame.offload.kind != SegmentKind::None || ipv6::HEADER_LEN + extra + len <= mtu {
        if let Some(fragment) = fragment {
            frame.push(ipv6::FRAGMENT_HEADER_LEN);
            fragment.emit(frame.bytes_mut());
            header.next_header = ipv6::FRAGMENT;
        }
        frame.push(ipv6::HEADER_LEN);
        header.payload_len = extra + len;
        header.emit(frame.bytes_mut());
        return Emitted::Frame;
    }
    let next_header = header.next_header;
    let fragment = fragment.unwrap_or(FragmentHeader { next_header, offset: 0, more: false, identification });
    frame.push(V6_HEADERS);
    Emitted::Sink(fragment_v6(frame.bytes_mut(), header, fragment, mtu, sink))
}

/// Sends `bytes[48..]` as fragments; the first 48 bytes are room for the headers.
fn fragment_v6(
    bytes: &mut [u8],
    mut header: Ipv6Header,
    fragment: FragmentHeader,
    mtu: usize,
    sink: &mut impl Sink,
) -> u64 {
    let len = bytes.len() - V6_HEADERS;
    let room = (mtu - V6_HEADERS) & !7;
    header.next_header = ipv6::FRAGMENT;
    let (mut at, mut count) = (0, 0);
    while at < len {
        let piece = room.min(len - at);
        let more = fragment.more || at + piece < len;
        header.payload_len = ipv6::FRAGMENT_HEADER_LEN + piece;
        header.emit(&mut bytes[at..]);
        FragmentHeader { offset: fragment.offset + at, more, ..fragment }.emit(&mut bytes[at + ipv6::HEADER_LEN..]);
        sink.packet(&bytes[at..at + V6_HEADERS + piece]);
        at += piece;
        count += 1;
    }
    count
}

/// Sends each datagram of a UDP super-segment on its own, in fragments where it is too large.
///
/// `frame` begins at the UDP header, whose ports are translated; it needs 48 bytes of headroom. Datagram `i` of those
/// made here has `identification + i`.
pub fn split_udp_v6(
    frame: &mut Frame,
    header: Ipv6Header,
    udp: UdpHeader,
    identification: u32,
    mtu: usize,
    sink: &mut impl Sink,
) -> u64 {
    let segment = usize::from(frame.offload.segment_size);
    let data_len = frame.len() - udp::HEADER_LEN;
    frame.push(V6_HEADERS);
    let bytes = frame.bytes_mut();
    let (mut at, mut count, mut datagrams) = (0, 0, 0);
    while at < data_len {
        let piece = segment.min(data_len - at);
        let length = udp::HEADER_LEN + piece;
        let datagram = &mut bytes[at..at + V6_HEADERS + length];
        let (_, transport) = datagram.split_at_mut(V6_HEADERS);
        UdpHeader { length, checksum: 0, ..udp }.emit(transport);
        let value = checksum::transport_v6(header.source, header.destination, ipv6::UDP, transport);
        put16(transport, udp::CHECKSUM, if value == 0 { 0xffff } else { value });
        if ipv6::HEADER_LEN + length <= mtu {
            let whole = &mut datagram[ipv6::FRAGMENT_HEADER_LEN..];
            Ipv6Header { payload_len: length, ..header }.emit(whole);
            sink.packet(whole);
            count += 1;
        } else {
            let identification = identification.wrapping_add(datagrams);
            let fragment = FragmentHeader { next_header: ipv6::UDP, offset: 0, more: false, identification };
            count += fragment_v6(datagram, header, fragment, mtu, sink);
        }
        at += piece;
        datagrams += 1;
    }
    count
}
