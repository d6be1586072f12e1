//! Which binding a packet uses, and what it does to its session (RFC 6146 section 3.5).

use super::bindings::{Popped, Session};
use super::config::Filtering;
use super::held::Wanted;
use super::ports::Mapped;
use super::stats::Reason;
use super::tcp_state::{self, TcpEvent, TcpState, TcpTimer};
use super::transport::Transport;
use super::{Nat64, Protocol, Refusal, Sink};
use crate::core::time::Now;
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{checksum, icmpv4, icmpv6, put16, tcp};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Sessions looked at in one call of [`Nat64::handle_timeout`].
const MAX_EXPIRIES: usize = 256;
/// A TCP header without options.
const PROBE_LEN: usize = 20;

impl Nat64 {
    /// The binding of a packet from IPv6, made if need be; its session is refreshed.
    pub(super) fn outbound(
        &mut self,
        now: Now,
        transport: &Transport,
        client: Ipv6Addr,
        remote: Ipv4Addr,
    ) -> Result<u32, Refusal> {
        let protocol = transport.protocol;
        let remote_port = if protocol == Protocol::Icmp { 0 } else { transport.destination_port };
        let event = (protocol == Protocol::Tcp).then(|| TcpEvent::of(transport.flags, true));
        let known = self.tables.binding_of_client(protocol, client, transport.source_port);
        if let Some(binding) = known
            && let Some(session) = self.tables.find_session(now, binding, remote, remote_port)
        {
            self.refresh(now, session, event);
            return Ok(binding);
        }
        let tcp = match event {
            None => None,
            Some(TcpEvent::V6Syn) => Some(TcpState::V6Init),
            // CLOSED: no session, but a packet of a known binding passes (RFC 6146 section 3.5.2.2).
            Some(_) => return known.ok_or_else(|| Reason::NoSession.into()),
        };
        let exhausted = |reason| Refusal::ToV6(reason, icmpv6::ErrorMessage::unreachable(icmpv6::ADDRESS_UNREACHABLE));
        self.tables.admit(client, known.is_none()).map_err(exhausted)?;
        let binding = match known {
            Some(binding) => binding,
            None => self.tables.create_binding(now, protocol, client, transport.source_port).map_err(exhausted)?,
        };
        let mut session = Session::new(binding, remote, remote_port, tcp, now + self.first_timeout(protocol));
        let mapped = self.tables.binding(binding).mapped;
        if tcp.is_some() && self.held_syns.take(now, &Wanted { remote, remote_port, mapped }) {
            // V4 INIT, and the SYN of the other end.
            (session.tcp, session.expires) = (Some(TcpState::Established), now + self.config.timeouts.tcp_established);
            self.stats.simultaneous_opens += 1;
        }
        self.tables.create_session(session);
        Ok(binding)
    }

    /// The binding of a packet from IPv4 to `mapped`; its session is refreshed or made.
    pub(super) fn inbound(
        &mut self,
        now: Now,
        transport: &Transport,
        mapped: Mapped,
        remote: Ipv4Addr,
        packet: &[u8],
    ) -> Result<u32, Refusal> {
        let protocol = transport.protocol;
        let unreachable = |reason, code| Refusal::ToV4(reason, icmpv4::ErrorMessage::unreachable(code));
        let remote_port = if protocol == Protocol::Icmp { 0 } else { transport.source_port };
        let wanted = Wanted { remote, remote_port, mapped };
        let Some(binding) = self.tables.binding_of_port(protocol, mapped) else {
            return Err(match protocol {
                Protocol::Udp => unreachable(Reason::NoBinding, icmpv4::PORT_UNREACHABLE),
                Protocol::Icmp => unreachable(Reason::NoBinding, icmpv4::HOST_UNREACHABLE),
                Protocol::Tcp => self.hold_syn(now, transport, wanted, packet, Reason::NoBinding).into(),
            });
        };
        let event = (protocol == Protocol::Tcp).then(|| TcpEvent::of(transport.flags, false));
        if let Some(session) = self.tables.find_session(now, binding, remote, remote_port) {
            self.refresh(now, session, event);
            return Ok(binding);
        }
        let admitted = self.tables.has_host(binding, remote);
        let client = self.tables.binding(binding).client;
        match event {
            None if admitted => {
                self.tables.admit(client, false)?;
                let expires = now + self.first_timeout(protocol);
                self.tables.create_session(Session::new(binding, remote, remote_port, None, expires));
                Ok(binding)
            }
            None => Err(unreachable(Reason::Filtered, icmpv4::ADMINISTRATIVELY_PROHIBITED)),
            Some(TcpEvent::V4Syn) if self.config.filtering == Filtering::EndpointIndependent => {
                self.tables.admit(client, false)?;
                let expires = now + self.config.timeouts.tcp_transitory;
                let tcp = Some(TcpState::V4Init);
                self.tables.create_session(Session::new(binding, remote, remote_port, tcp, expires));
                Ok(binding)
            }
            Some(TcpEvent::V4Syn) => Err(self.hold_syn(now, transport, wanted, packet, Reason::Filtered).into()),
            Some(_) if admitted => Ok(binding),
            Some(_) => Err(Reason::Filtered.into()),
        }
    }

    /// Keeps a SYN that is not translated for `reason`, which is returned unless there is no room. Other segments open
    /// nothing, so nobody waits for them.
    fn hold_syn(&mut self, now: Now, transport: &Transport, wanted: Wanted, packet: &[u8], reason: Reason) -> Reason {
        if transport.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) != tcp::SYN {
            return reason;
        }
        let wait = self.config.timeouts.tcp_incoming_syn;
        self.held_syns.hold(now, wait, wanted, packet).err().unwrap_or(reason)
    }

    fn first_timeout(&self, protocol: Protocol) -> std::time::Duration {
        match protocol {
            Protocol::Tcp => self.config.timeouts.tcp_transitory,
            Protocol::Udp => self.config.timeouts.udp,
            Protocol::Icmp => self.config.timeouts.icmp,
        }
    }

    fn refresh(&mut self, now: Now, id: u32, event: Option<TcpEvent>) {
        let session = self.tables.session(id);
        let (Some(event), Some(state)) = (event, session.tcp) else {
            let protocol = self.tables.binding(session.binding).protocol;
            let expires = now + self.first_timeout(protocol);
            return self.tables.set_expiry(id, expires);
        };
        let (next, timer) = tcp_state::next(state, event);
        if next != state {
            self.tables.set_tcp(id, next);
        }
        match timer {
            TcpTimer::Keep => {}
            TcpTimer::Established => self.tables.set_expiry(id, now + self.config.timeouts.tcp_established),
            TcpTimer::Transitory => self.tables.set_expiry(id, now + self.config.timeouts.tcp_transitory),
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Now> {
        let times = [self.tables.next_expiry(), self.fragments.next_expiry(), self.held_syns.next_expiry()];
        times.into_iter().flatten().min()
    }

    /// Ends sessions whose time is over; answers SYNs that nobody took and probes idle connections into `sink`.
    ///
    /// One call looks at no more than 256 sessions; [`Self::next_timeout`] then still lies in the past.
    pub fn handle_timeout(&mut self, now: Now, sink: &mut impl Sink) {
        self.fragments.expire(now);
        while let Some(packet) = self.held_syns.pop_expired(now) {
            self.answer_held_syn(now, &packet, sink);
        }
        for _ in 0..MAX_EXPIRIES {
            match self.tables.pop_expired(now) {
                Popped::Nothing => return,
                Popped::Alive => {}
                Popped::Expired(id) if self.tables.session(id).tcp == Some(TcpState::Established) => {
                    self.tables.set_tcp(id, TcpState::Transitory);
                    self.tables.revive(id, now + self.config.timeouts.tcp_transitory);
                    self.probe(id, sink);
                }
                Popped::Expired(id) => {
                    self.tables.remove_session(now, id);
                    self.stats.sessions_expired += 1;
                }
            }
        }
    }

    /// Asks the client whether an idle connection is alive: a host that knows it answers an acknowledgement out of its
    /// window, which brings the session back to established (RFC 6146 section 3.5.2.2, ESTABLISHED).
    fn probe(&mut self, id: u32, sink: &mut impl Sink) {
        let session = *self.tables.session(id);
        let binding = *self.tables.binding(session.binding);
        // Sessions with peers that have no IPv6 address are not made.
        let Some(source) = self.config.mappings.embed(session.remote) else { return };
        let mut packet = [0; ipv6::HEADER_LEN + PROBE_LEN];
        Ipv6Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: PROBE_LEN,
            next_header: ipv6::TCP,
            hop_limit: 64,
            source,
            destination: binding.client,
        }
        .emit(&mut packet);
        let segment = &mut packet[ipv6::HEADER_LEN..];
        put16(segment, 0, session.remote_port);
        put16(segment, 2, binding.port);
        segment[12] = (PROBE_LEN as u8 / 4) << 4;
        segment[13] = tcp::ACK;
        let value = checksum::transport_v6(source, binding.client, ipv6::TCP, segment);
        put16(segment, tcp::CHECKSUM, value);
        sink.packet(&packet);
        self.stats.probes_sent += 1;
    }

    fn answer_held_syn(&mut self, now: Now, packet: &[u8], sink: &mut impl Sink) {
        if self.limiter.allow(now) {
            let error = icmpv4::ErrorMessage::unreachable(icmpv4::PORT_UNREACHABLE);
            let (source, destination) = (crate::wire::ipv4::destination(packet), crate::wire::ipv4::source(packet));
            let len = error.emit(&mut self.scratch[..], source, destination, packet);
            sink.packet(&self.scratch[..len]);
            self.stats.errors_sent += 1;
        } else {
            self.stats.errors_limited += 1;
        }
    }
}
