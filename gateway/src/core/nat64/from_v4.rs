//! IPv4 to IPv6: RFC 7915 section 4 with the sessions of RFC 6146 section 3.5.

use super::config::is_host;
use super::fragments::{Found, Key, Span};
use super::output::{Emitted, V6_HEADERS, emit_v6, split_udp_v6};
use super::ports::Mapped;
use super::quote::{self, Ends};
use super::stats::Reason;
use super::transport::{self, Port, Transport, wire_packets};
use super::{Nat64, Protocol, Refusal, Sink, Verdict, icmp};
use crate::core::frame::{Frame, HEADROOM, Offload, SegmentKind};
use crate::core::time::Now;
use crate::wire::checksum::{self, Delta};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, FragmentHeader, Ipv6Header};
use crate::wire::udp::{self, UdpHeader};
use crate::wire::{be16, be32, icmpv4, icmpv6, put16};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Nat64 {
    /// Translates one frame, or says why not. Refusals leave the frame as it is.
    pub(super) fn v4_to_v6(&mut self, now: Now, frame: &mut Frame, sink: &mut impl Sink) -> Result<Verdict, Refusal> {
        let header = Ipv4Header::parse(frame.bytes()).map_err(|_| Reason::Malformed)?;
        frame.set_len(header.total_len);
        if checksum::sum(&frame.bytes()[..header.header_len]) != 0xffff {
            return Err(Reason::Checksum.into());
        }
        let address = self.tables.pool.index_of(header.destination).ok_or(Reason::NotInPool)?;
        // Errors come from illegal sources too, and help to find the trouble (RFC 7915 section 4.1).
        if !is_host(header.source) && !is_error(&header, frame.bytes()) {
            return Err(Reason::Source.into());
        }
        if ipv4::unexpired_source_route(&frame.bytes()[..header.header_len]).is_some() {
            let error = icmpv4::ErrorMessage::unreachable(icmpv4::SOURCE_ROUTE_FAILED);
            return Err(Refusal::ToV4(Reason::SourceRoute, error));
        }
        if header.ttl <= 1 {
            return Err(Refusal::ToV4(Reason::HopLimit, icmpv4::ErrorMessage::time_exceeded()));
        }
        if header.protocol == ipv4::PROTOCOL_IGMP {
            return Err(Reason::Protocol.into());
        }
        let protocol = Protocol::from_v4(header.protocol).ok_or_else(|| {
            Refusal::ToV4(Reason::Protocol, icmpv4::ErrorMessage::unreachable(icmpv4::PROTOCOL_UNREACHABLE))
        })?;
        if frame.headroom() + header.header_len < V6_HEADERS {
            return Err(Reason::NoRoom.into());
        }
        if header.is_fragment() {
            if frame.offload != Offload::default() {
                return Err(Reason::Malformed.into());
            }
            if protocol == Protocol::Icmp {
                return self.reassemble_v4(now, frame, &header, sink);
            }
            if header.fragment_offset != 0 {
                return self.later_fragment_v4(now, frame, &header, sink);
            }
        }
        let payload = &frame.bytes()[header.header_len..];
        if protocol == Protocol::Icmp {
            match payload.first() {
                Some(&(icmpv4::ECHO_REQUEST | icmpv4::ECHO_REPLY)) => {}
                Some(kind) if icmpv4::is_error(*kind) => return self.error_from_v4(now, frame, &header, address),
                Some(_) => return Err(Reason::IcmpType.into()),
                None => return Err(Reason::Malformed.into()),
            }
        }
        let transport = Transport::parse(protocol, payload)?;
        let without_checksum = protocol == Protocol::Udp && transport.checksum == 0 && !frame.offload.partial_checksum;
        if without_checksum && header.is_fragment() {
            return self.reassemble_v4(now, frame, &header, sink);
        }
        let udp_len = if without_checksum { usize::from(be16(payload, 4)) } else { 0 };
        if without_checksum && !(udp::HEADER_LEN..=payload.len()).contains(&udp_len) {
            return Err(Reason::Malformed.into());
        }
        if protocol == Protocol::Icmp && frame.offload != Offload::default() {
            return Err(Reason::Malformed.into());
        }
        let extra = if header.is_fragment() { ipv6::FRAGMENT_HEADER_LEN } else { 0 };
        let wire_len = ipv6::HEADER_LEN + extra + transport.wire_payload(payload.len(), frame.offload)?;
        if wire_len > self.config.ipv6_mtu && header.dont_fragment {
            return Err(self.fragmentation_needed(extra));
        }
        let mapped = Mapped { address, port: transport.destination_port };
        let source = self.embed(header.source)?;
        let binding = self.inbound(now, &transport, mapped, header.source, frame.bytes())?;
        let binding = *self.tables.binding(binding);
        let held = if header.is_fragment() {
            self.fragments.learn(now, fragment_key(&header), IpAddr::V6(binding.client), payload.len())?
        } else {
            Vec::new()
        };

        let partial = frame.offload.partial_checksum;
        let payload = &mut frame.bytes_mut()[header.header_len..];
        if protocol == Protocol::Icmp {
            let pseudo = checksum::pseudo_v6(source, binding.client, ipv6::ICMPV6, payload.len() as u32);
            transport::echo_to_v6(payload, binding.port, pseudo);
        } else {
            let old = checksum::pseudo_v4(header.source, header.destination, 0, 0);
            let new = checksum::pseudo_v6(source, binding.client, 0, 0);
            let addresses = Delta::NONE.replace(old, new);
            transport::rewrite(payload, protocol, Port::Destination, binding.port, addresses, partial);
            if without_checksum {
                let datagram = &mut payload[..udp_len];
                let value = checksum::transport_v6(source, binding.client, ipv6::UDP, datagram);
                put16(datagram, udp::CHECKSUM, if value == 0 { 0xffff } else { value });
            }
        }
        let verdict =
            self.finish_v6(frame, &header, protocol, source, binding.client, wire_len, transport.header_len, sink);
        for mut buffer in held {
            let end = buffer.len();
            let mut later = Frame::new(&mut buffer, HEADROOM, end, Offload::default());
            self.release(now, &mut later, false, sink);
        }
        Ok(verdict)
    }

    /// Replaces the header of a frame whose transport part is translated.
    ///
    /// `wire_len` is the length of one IPv6 packet on the wire, `header_len` that of the transport header.
    #[allow(clippy::too_many_arguments)]
    fn finish_v6(
        &mut self,
        frame: &mut Frame,
        header: &Ipv4Header,
        protocol: Protocol,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        wire_len: usize,
        header_len: usize,
        sink: &mut impl Sink,
    ) -> Verdict {
        frame.pull(header.header_len);
        let header6 = Ipv6Header {
            traffic_class: self.config.traffic_class.unwrap_or(header.traffic_class),
            flow_label: 0,
            payload_len: 0,
            next_header: protocol.v6_number(),
            hop_limit: header.ttl - 1,
            source,
            destination,
        };
        let mtu = self.config.ipv6_mtu;
        if wire_len > mtu {
            match frame.offload.kind {
                SegmentKind::None if frame.offload.partial_checksum => {
                    transport::complete(frame.bytes_mut(), protocol);
                    frame.offload.partial_checksum = false;
                }
                SegmentKind::None => {}
                // The sender allows fragments; smaller segments do the same for less.
                SegmentKind::Tcp => {
                    frame.offload.segment_size = (mtu - ipv6::HEADER_LEN - header_len) as u16;
                }
                SegmentKind::Udp => {
                    let datagrams = wire_packets(frame.len(), frame.offload);
                    let identification = self.next_identification(datagrams);
                    let Ok(udp) = UdpHeader::parse(frame.bytes()) else { return Verdict::Drop(Reason::Malformed) };
                    self.stats.fragments_made += split_udp_v6(frame, header6, udp, identification, mtu, sink);
                    return Verdict::Sent;
                }
            }
        }
        // The low half of a Fragment header's identification is the one of IPv4 (RFC 7915 section 4.1).
        let identification = u32::from(header.identification);
        let fragment = header.is_fragment().then_some(FragmentHeader {
            next_header: header6.next_header,
            offset: header.fragment_offset,
            more: header.more_fragments,
            identification,
        });
        match emit_v6(frame, header6, fragment, identification, mtu, sink) {
            Emitted::Frame => Verdict::Forward,
            Emitted::Sink(count) => {
                self.stats.fragments_made += count;
                Verdict::Sent
            }
        }
    }

    /// The IPv6 address of an IPv4 host or router.
    fn embed(&self, address: Ipv4Addr) -> Result<Ipv6Addr, Refusal> {
        self.config.mappings.embed(address).ok_or_else(|| Reason::NoPrefix.into())
    }

    fn fragmentation_needed(&self, extra: usize) -> Refusal {
        let mtu = self.config.ipv6_mtu - (ipv6::HEADER_LEN - ipv4::HEADER_LEN) - extra;
        Refusal::ToV4(Reason::TooBig, icmpv4::ErrorMessage::fragmentation_needed(mtu.min(65_535) as u16))
    }

    fn later_fragment_v4(
        &mut self,
        now: Now,
        frame: &mut Frame,
        header: &Ipv4Header,
        sink: &mut impl Sink,
    ) -> Result<Verdict, Refusal> {
        let wire_len = V6_HEADERS + header.payload_len();
        if header.dont_fragment && wire_len > self.config.ipv6_mtu {
            return Err(self.fragmentation_needed(ipv6::FRAGMENT_HEADER_LEN));
        }
        let key = fragment_key(header);
        let client = match self.fragments.find(now, &key, span(header), header.payload_len()) {
            Found::Known(IpAddr::V6(client)) => client,
            Found::Whole => return self.reassemble_v4(now, frame, header, sink),
            _ => {
                self.fragments.hold(now, key, frame.bytes(), span(header), false)?;
                return Ok(Verdict::Held);
            }
        };
        let protocol = Protocol::from_v4(header.protocol).ok_or(Reason::Protocol)?;
        let source = self.embed(header.source)?;
        Ok(self.finish_v6(frame, header, protocol, source, client, wire_len, 0, sink))
    }

    /// Keeps a fragment of a packet whose checksum depends on all of it, until all of it is here: ICMP, where the
    /// pseudo header has the length, and UDP without checksum (RFC 6146 section 3.4).
    fn reassemble_v4(
        &mut self,
        now: Now,
        frame: &Frame,
        header: &Ipv4Header,
        sink: &mut impl Sink,
    ) -> Result<Verdict, Refusal> {
        let Some((mut buffer, len)) =
            self.fragments.hold(now, fragment_key(header), frame.bytes(), span(header), true)?
        else {
            return Ok(Verdict::Held);
        };
        let packet = &mut buffer[HEADROOM..HEADROOM + len];
        let first = Ipv4Header::parse_embedded(packet).map_err(|_| Reason::Malformed)?;
        put16(packet, 2, len as u16);
        // Keeps DF: whether the sender wants to hear of a too large packet does not change.
        packet[6] &= 0x40;
        packet[7] = 0;
        put16(packet, 10, 0);
        let value = checksum::finish(checksum::sum(&packet[..first.header_len]));
        put16(packet, 10, value);
        let mut whole = Frame::new(&mut buffer, HEADROOM, HEADROOM + len, Offload::default());
        self.release(now, &mut whole, false, sink);
        Ok(Verdict::Sent)
    }

    /// Whether an IPv4 packet to the pool is for a binding of this shard, or for a packet whose first fragment it has.
    pub fn takes(&self, packet: &[u8]) -> bool {
        let Ok(header) = Ipv4Header::parse(packet) else { return false };
        let Some(address) = self.tables.pool.index_of(header.destination) else { return false };
        let Some(protocol) = Protocol::from_v4(header.protocol) else { return false };
        let payload = &packet[header.header_len..header.total_len];
        if header.fragment_offset != 0 {
            // The first fragment has passed here in both directions before any other is looked at.
            return self.fragments.knows(&fragment_key(&header));
        }
        let port = match protocol {
            Protocol::Icmp if payload.first().is_some_and(|kind| icmpv4::is_error(*kind)) => {
                let quoted = payload.get(icmpv4::HEADER_LEN..).unwrap_or_default();
                let Ok(inner) = Ipv4Header::parse_embedded(quoted) else { return false };
                let Some(protocol) = Protocol::from_v4(inner.protocol) else { return false };
                let Some((port, _)) = quote::ports(protocol, &quoted[inner.header_len..]) else { return false };
                return self.tables.binding_of_port(protocol, Mapped { address, port }).is_some();
            }
            _ => match Transport::parse(protocol, payload) {
                Ok(transport) => transport.destination_port,
                Err(_) => return false,
            },
        };
        self.tables.binding_of_port(protocol, Mapped { address, port }).is_some()
    }

    /// An ICMPv4 error about a packet that went out from the pool (RFC 7915 sections 4.2 and 4.3).
    fn error_from_v4(
        &mut self,
        now: Now,
        frame: &mut Frame,
        header: &Ipv4Header,
        address: u16,
    ) -> Result<Verdict, Refusal> {
        let message = &frame.bytes()[header.header_len..];
        if frame.offload != Offload::default() || message.len() < icmpv4::HEADER_LEN {
            return Err(Reason::Malformed.into());
        }
        if checksum::sum(message) != 0xffff {
            return Err(Reason::Checksum.into());
        }
        let (kind, code, word) = (message[0], message[1], be32(message, 4));
        let length = usize::from(message[5]) * 4;
        let (quoted, extension) = quote::split_extension(&message[icmpv4::HEADER_LEN..], length);

        let inner = Ipv4Header::parse_embedded(quoted).map_err(|_| Reason::IcmpQuote)?;
        let mut error = icmp::to_v6(kind, code, word, inner.total_len as u32, self.mtus()).ok_or(Reason::IcmpType)?;
        if inner.source != header.destination || inner.fragment_offset != 0 {
            return Err(Reason::IcmpQuote.into());
        }
        let protocol = Protocol::from_v4(inner.protocol).ok_or(Reason::IcmpQuote)?;
        let (port, remote_port) = quote::ports(protocol, &quoted[inner.header_len..]).ok_or(Reason::IcmpQuote)?;
        let remote_port = if protocol == Protocol::Icmp { 0 } else { remote_port };
        let mapped = Mapped { address, port };
        let binding = self.tables.binding_of_port(protocol, mapped).ok_or(Reason::IcmpQuote)?;
        self.tables.find_session(now, binding, inner.destination, remote_port).ok_or(Reason::IcmpQuote)?;
        let binding = *self.tables.binding(binding);

        let source = self.embed(header.source)?;
        let remote = self.embed(inner.destination)?;
        let out = &mut self.scratch[..];
        let body = &mut out[ipv6::HEADER_LEN + icmpv6::HEADER_LEN..];
        let ends = Ends { source: binding.client, destination: remote, port: binding.port };
        let quoted_len = quote::to_v6(body, quoted, &inner, protocol, ends);
        // Only these two may carry extensions in ICMPv6 (RFC 4884 section 4).
        let extension = match error.kind {
            icmpv6::DESTINATION_UNREACHABLE | icmpv6::TIME_EXCEEDED => extension,
            _ => &[],
        };
        let (body_len, units) = quote::put_extension(body, quoted_len, extension, 8);
        error.word |= u32::from(units) << 24;
        let payload_len = icmpv6::HEADER_LEN + body_len;
        let total_len = ipv6::HEADER_LEN + payload_len;
        Ipv6Header {
            traffic_class: self.config.traffic_class.unwrap_or(header.traffic_class),
            flow_label: 0,
            payload_len,
            next_header: ipv6::ICMPV6,
            hop_limit: header.ttl - 1,
            source,
            destination: binding.client,
        }
        .emit(out);
        let message = &mut out[ipv6::HEADER_LEN..total_len];
        message[0] = error.kind;
        message[1] = error.code;
        message[4..8].copy_from_slice(&error.word.to_be_bytes());
        icmpv6::put_checksum(message, source, binding.client);
        self.put_scratch(frame, total_len)?;
        Ok(Verdict::Forward)
    }
}

fn span(header: &Ipv4Header) -> Span {
    Span { at: header.header_len, offset: header.fragment_offset, more: header.more_fragments }
}

fn is_error(header: &Ipv4Header, packet: &[u8]) -> bool {
    header.protocol == ipv4::PROTOCOL_ICMP
        && header.fragment_offset == 0
        && packet.get(header.header_len).is_some_and(|kind| icmpv4::is_error(*kind))
}

fn fragment_key(header: &Ipv4Header) -> Key {
    Key {
        source: header.source.into(),
        destination: header.destination.into(),
        identification: u32::from(header.identification),
        protocol: header.protocol,
    }
}
