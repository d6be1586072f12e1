//! IPv6 to IPv4: RFC 7915 section 5 with the sessions of RFC 6146 section 3.5.

use super::config::is_host;
use super::fragments::{Found, Key, Span};
use super::output::{Emitted, emit_v4};
use super::quote::{self, Ends};
use super::shards::shard_of_v6;
use super::stats::Reason;
use super::transport::{self, Port, Transport, wire_packets};
use super::{Nat64, Protocol, Refusal, Sink, Verdict, icmp};
use crate::core::frame::{Frame, HEADROOM, Offload};
use crate::core::time::Now;
use crate::wire::checksum::{self, Delta};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, FragmentHeader, Ipv6Header, UpperLayer};
use crate::wire::{be32, icmpv4, icmpv6, put16};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Up to this size an IPv4 packet may be fragmented on its way (RFC 7915 section 5.1).
const MAX_WITHOUT_DF: usize = 1260;

impl Nat64 {
    /// Translates one frame, or says why not. Refusals leave the frame as it is.
    pub(super) fn v6_to_v4(&mut self, now: Now, frame: &mut Frame, sink: &mut impl Sink) -> Result<Verdict, Refusal> {
        let header = Ipv6Header::parse(frame.bytes()).map_err(|_| Reason::Malformed)?;
        frame.set_len(ipv6::HEADER_LEN + header.payload_len);
        let mappings = &self.config.mappings;
        let remote =
            mappings.extract(header.destination).ok_or_else(|| match mappings.contains(header.destination) {
                true => Refusal::ToV6(Reason::Destination, icmpv6::ErrorMessage::unreachable(icmpv6::NO_ROUTE)),
                false => Reason::NotInPrefix.into(),
            })?;
        if !is_source(header.source) || mappings.contains(header.source) {
            return Err(Reason::Source.into());
        }
        let upper = ipv6::upper_layer(frame.bytes(), &header).map_err(|_| Reason::Malformed)?;
        if let Some(pointer) = upper.unvisited_segments {
            let error = icmpv6::ErrorMessage::parameter_problem(icmpv6::ERRONEOUS_FIELD, pointer as u32);
            return Err(Refusal::ToV6(Reason::RoutingHeader, error));
        }
        if header.hop_limit <= 1 {
            return Err(Refusal::ToV6(Reason::HopLimit, icmpv6::ErrorMessage::time_exceeded()));
        }
        if !is_host(remote) {
            let error = icmpv6::ErrorMessage::unreachable(icmpv6::NO_ROUTE);
            return Err(Refusal::ToV6(Reason::Destination, error));
        }
        // A header behind the Fragment header is in the first fragment only: the others could not be translated
        // (RFC 7915 section 5.1.1; section 5.4 names the answer).
        if upper.fragment.is_some_and(|fragment| ipv6::is_extension(fragment.next_header)) {
            let error = icmpv6::ErrorMessage::unreachable(icmpv6::ADMINISTRATIVELY_PROHIBITED);
            return Err(Refusal::ToV6(Reason::ExtensionHeader, error));
        }
        let protocol = Protocol::from_v6(upper.protocol).ok_or_else(|| {
            Refusal::ToV6(Reason::Protocol, icmpv6::ErrorMessage::unreachable(icmpv6::PORT_UNREACHABLE))
        })?;
        let fragment = upper.fragment.filter(|fragment| !fragment.is_atomic());
        if fragment.is_some() && frame.offload != Offload::default() {
            return Err(Reason::Malformed.into());
        }
        if let Some(fragment) = fragment.filter(|_| protocol == Protocol::Icmp) {
            return self.reassemble_v6(now, frame, &header, &upper, fragment, sink);
        }
        if fragment.is_some_and(|fragment| fragment.offset != 0) {
            return self.later_fragment_v6(now, frame, &header, &upper, remote, sink);
        }
        let payload = &frame.bytes()[upper.offset..];
        if protocol == Protocol::Icmp {
            match payload.first() {
                Some(&(icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY)) => {}
                Some(kind) if icmpv6::is_error(*kind) => {
                    return self.error_from_v6(now, frame, &header, &upper, remote, sink);
                }
                Some(_) => return Err(Reason::IcmpType.into()),
                None => return Err(Reason::Malformed.into()),
            }
        }
        let transport = Transport::parse(protocol, payload)?;
        if protocol == Protocol::Udp && transport.checksum == 0 && !frame.offload.partial_checksum {
            return Err(Reason::UdpChecksumZero.into());
        }
        if protocol == Protocol::Icmp && frame.offload != Offload::default() {
            return Err(Reason::Malformed.into());
        }
        let wire_len = ipv4::HEADER_LEN + transport.wire_payload(payload.len(), frame.offload)?;
        let dont_fragment = upper.fragment.is_none() && wire_len > MAX_WITHOUT_DF;
        if ipv4::HEADER_LEN + payload.len() > 65_535 || (dont_fragment && wire_len > self.config.mtu) {
            let error = icmpv6::ErrorMessage::packet_too_big(self.config.mtu as u32 + 20);
            return Err(Refusal::ToV6(Reason::TooBig, error));
        }
        if !self.may_send(now, &transport, header.source, remote) {
            let error = icmpv6::ErrorMessage::unreachable(icmpv6::ADMINISTRATIVELY_PROHIBITED);
            return Err(Refusal::ToV6(Reason::Unauthenticated, error));
        }
        let binding = self.outbound(now, &transport, header.source, remote)?;
        let mapped = self.tables.binding(binding).mapped;
        let source = self.tables.pool.address(mapped.address);
        let held = match fragment {
            Some(fragment) => {
                let key = fragment_key(&header, fragment.identification, upper.protocol);
                self.fragments.learn(now, key, IpAddr::V4(source), payload.len())?
            }
            None => Vec::new(),
        };

        let partial = frame.offload.partial_checksum;
        let payload = &mut frame.bytes_mut()[upper.offset..];
        if protocol == Protocol::Icmp {
            let len = payload.len() as u32;
            let pseudo = checksum::pseudo_v6(header.source, header.destination, ipv6::ICMPV6, len);
            transport::echo_to_v4(payload, mapped.port, pseudo);
        } else {
            let old = checksum::pseudo_v6(header.source, header.destination, 0, 0);
            let new = checksum::pseudo_v4(source, remote, 0, 0);
            let addresses = Delta::NONE.replace(old, new);
            transport::rewrite(payload, protocol, Port::Source, mapped.port, addresses, partial);
        }
        let verdict = self.finish_v4(now, frame, &header, &upper, source, remote, dont_fragment, sink);
        for mut buffer in held {
            let end = buffer.len();
            let mut later = Frame::new(&mut buffer, HEADROOM, end, Offload::default());
            self.release(now, &mut later, true, sink);
        }
        Ok(verdict)
    }

    /// Replaces the headers of a frame whose transport part is translated.
    #[allow(clippy::too_many_arguments)]
    fn finish_v4(
        &mut self,
        now: Now,
        frame: &mut Frame,
        header: &Ipv6Header,
        upper: &UpperLayer,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        dont_fragment: bool,
        sink: &mut impl Sink,
    ) -> Verdict {
        frame.pull(upper.offset);
        let identification = match upper.fragment {
            Some(fragment) => fragment.identification as u16,
            None => self.next_identification(wire_packets(frame.len(), frame.offload)) as u16,
        };
        let header = Ipv4Header {
            header_len: ipv4::HEADER_LEN,
            traffic_class: self.config.tos.unwrap_or(header.traffic_class),
            total_len: 0,
            identification,
            dont_fragment,
            more_fragments: upper.fragment.is_some_and(|fragment| fragment.more),
            fragment_offset: upper.fragment.map_or(0, |fragment| fragment.offset),
            ttl: header.hop_limit - 1,
            protocol: if upper.protocol == ipv6::ICMPV6 { ipv4::PROTOCOL_ICMP } else { upper.protocol },
            source,
            destination,
        };
        match emit_v4(frame, header, self.config.mtu, sink) {
            Emitted::Frame => self.hairpin(now, frame, destination, sink),
            Emitted::Sink(count) => {
                self.stats.fragments_made += count;
                Verdict::Sent
            }
        }
    }

    /// A packet to a mapped port of the pool turns round (RFC 6146 section 3.8). One to another port of a pool address
    /// goes out, since it may be for the host itself; one to another shard's port is the caller's to hand over.
    fn hairpin(&mut self, now: Now, frame: &mut Frame, destination: Ipv4Addr, sink: &mut impl Sink) -> Verdict {
        let local = self.tables.pool.index_of(destination).is_some() && self.takes(frame.bytes());
        if !local {
            return Verdict::Forward;
        }
        match self.v4_to_v6(now, frame, sink) {
            Ok(verdict) => {
                self.stats.hairpinned += 1;
                verdict
            }
            Err(refusal) => {
                let reason = refusal.reason();
                // The error is addressed to the pool, so it turns round as well.
                match self.refuse(now, frame, refusal) {
                    Verdict::Reply => match self.v4_to_v6(now, frame, sink) {
                        Ok(_) => Verdict::Reply,
                        Err(_) => Verdict::Drop(reason),
                    },
                    other => other,
                }
            }
        }
    }

    fn later_fragment_v6(
        &mut self,
        now: Now,
        frame: &mut Frame,
        header: &Ipv6Header,
        upper: &UpperLayer,
        remote: Ipv4Addr,
        sink: &mut impl Sink,
    ) -> Result<Verdict, Refusal> {
        let Some(fragment) = upper.fragment else { return Err(Reason::Malformed.into()) };
        let key = fragment_key(header, fragment.identification, upper.protocol);
        let span = span(upper, fragment);
        match self.fragments.find(now, &key, span, frame.len() - upper.offset) {
            Found::Known(IpAddr::V4(source)) => {
                Ok(self.finish_v4(now, frame, header, upper, source, remote, false, sink))
            }
            _ => {
                self.fragments.hold(now, key, frame.bytes(), span, false)?;
                Ok(Verdict::Held)
            }
        }
    }

    /// Keeps a fragment of an ICMPv6 message until all of it is here: the pseudo header that leaves its checksum has the
    /// length of the whole.
    fn reassemble_v6(
        &mut self,
        now: Now,
        frame: &Frame,
        header: &Ipv6Header,
        upper: &UpperLayer,
        fragment: FragmentHeader,
        sink: &mut impl Sink,
    ) -> Result<Verdict, Refusal> {
        let key = fragment_key(header, fragment.identification, upper.protocol);
        let Some((mut buffer, len)) = self.fragments.hold(now, key, frame.bytes(), span(upper, fragment), true)? else {
            return Ok(Verdict::Held);
        };
        let packet = &mut buffer[HEADROOM..HEADROOM + len];
        let first = Ipv6Header::parse_embedded(packet).map_err(|_| Reason::Malformed)?;
        put16(packet, 4, (len - ipv6::HEADER_LEN) as u16);
        let at = ipv6::upper_layer(packet, &first).map_err(|_| Reason::Malformed)?.offset - ipv6::FRAGMENT_HEADER_LEN;
        // An atomic fragment: the sender wants no path MTU discovery, so IPv4 may fragment it.
        put16(packet, at + 2, 0);
        // An error of a router: only now it shows which client it is about, who may be another shard's.
        if shard_of_v6(packet, self.config.shards) != self.config.shard {
            self.stats.handed_over += 1;
            sink.packet(packet);
            return Ok(Verdict::Sent);
        }
        let mut whole = Frame::new(&mut buffer, HEADROOM, HEADROOM + len, Offload::default());
        self.release(now, &mut whole, true, sink);
        Ok(Verdict::Sent)
    }

    /// An ICMPv6 error about a packet that came from IPv4 (RFC 7915 sections 5.2 and 5.3).
    fn error_from_v6(
        &mut self,
        now: Now,
        frame: &mut Frame,
        header: &Ipv6Header,
        upper: &UpperLayer,
        remote: Ipv4Addr,
        sink: &mut impl Sink,
    ) -> Result<Verdict, Refusal> {
        let message = &frame.bytes()[upper.offset..];
        if frame.offload != Offload::default() || message.len() < icmpv6::HEADER_LEN {
            return Err(Reason::Malformed.into());
        }
        let pseudo = checksum::pseudo_v6(header.source, header.destination, ipv6::ICMPV6, message.len() as u32);
        if checksum::add(pseudo, checksum::sum(message)) != 0xffff {
            return Err(Reason::Checksum.into());
        }
        let (kind, code, word) = (message[0], message[1], be32(message, 4));
        let extended = matches!(kind, icmpv6::DESTINATION_UNREACHABLE | icmpv6::TIME_EXCEEDED);
        let length = if extended { usize::from(message[4]) * 8 } else { 0 };
        let (quoted, extension) = quote::split_extension(&message[icmpv6::HEADER_LEN..], length);

        let inner = Ipv6Header::parse_embedded(quoted).map_err(|_| Reason::IcmpQuote)?;
        let inner_upper = ipv6::upper_layer(quoted, &inner).map_err(|_| Reason::IcmpQuote)?;
        if inner_upper.fragment.is_some_and(|fragment| fragment.offset != 0) || inner_upper.offset > quoted.len() {
            return Err(Reason::IcmpQuote.into());
        }
        let mut error =
            icmp::to_v4(kind, code, word, inner_upper.fragment.is_some(), self.mtus()).ok_or(Reason::IcmpType)?;
        if self.config.mappings.extract(inner.source) != Some(remote) {
            return Err(Reason::IcmpQuote.into());
        }
        let protocol = Protocol::from_v6(inner_upper.protocol).ok_or(Reason::IcmpQuote)?;
        let (remote_port, port) = quote::ports(protocol, &quoted[inner_upper.offset..]).ok_or(Reason::IcmpQuote)?;
        let remote_port = if protocol == Protocol::Icmp { 0 } else { remote_port };
        let binding = self.tables.binding_of_client(protocol, inner.destination, port).ok_or(Reason::IcmpQuote)?;
        self.tables.find_session(now, binding, remote, remote_port).ok_or(Reason::IcmpQuote)?;
        let mapped = self.tables.binding(binding).mapped;
        let source = self.tables.pool.address(mapped.address);

        let out = &mut self.scratch[..];
        let body = &mut out[ipv4::HEADER_LEN + icmpv4::HEADER_LEN..];
        let ends = Ends { source: remote, destination: source, port: mapped.port };
        let quoted_len = quote::to_v4(body, quoted, &inner, &inner_upper, protocol, ends);
        let (body_len, units) = quote::put_extension(body, quoted_len, extension, 4);
        error.word |= u32::from(units) << 16;
        let message_len = icmpv4::HEADER_LEN + body_len;
        let total_len = ipv4::HEADER_LEN + message_len;
        self.identification = self.identification.wrapping_add(1);
        Ipv4Header {
            header_len: ipv4::HEADER_LEN,
            traffic_class: self.config.tos.unwrap_or(header.traffic_class),
            total_len,
            identification: self.identification as u16,
            dont_fragment: total_len > MAX_WITHOUT_DF,
            more_fragments: false,
            fragment_offset: 0,
            ttl: header.hop_limit - 1,
            protocol: ipv4::PROTOCOL_ICMP,
            source,
            destination: remote,
        }
        .emit(out);
        let message = &mut out[ipv4::HEADER_LEN..total_len];
        message[0] = error.kind;
        message[1] = error.code;
        message[4..8].copy_from_slice(&error.word.to_be_bytes());
        icmpv4::put_checksum(message);
        self.put_scratch(frame, total_len)?;
        Ok(self.hairpin(now, frame, remote, sink))
    }
}

fn span(upper: &UpperLayer, fragment: FragmentHeader) -> Span {
    Span { at: upper.offset, offset: fragment.offset, more: fragment.more }
}

/// Whether a packet that was routed may come from this address (RFC 4291 sections 2.5.2, 2.5.3, 2.5.6 and 2.7).
fn is_source(address: Ipv6Addr) -> bool {
    !(address.is_multicast() || address.is_unspecified() || address.is_loopback() || address.is_unicast_link_local())
}

fn fragment_key(header: &Ipv6Header, identification: u32, protocol: u8) -> Key {
    Key { source: header.source.into(), destination: header.destination.into(), identification, protocol }
}
