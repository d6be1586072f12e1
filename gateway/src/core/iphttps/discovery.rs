//! Neighbour discovery from clients, which the server answers itself: the kernel does not do it on a TUN device.
//!
//! A duplicate address probe for an address that another client uses is answered by the server as if it were the owner,
//! over the asker's connection only (\[MS-IPHTTPS\] 3.2.5.2.2). In mode None no such message reaches another client. In
//! mode Certificates a probe goes to the owner alone, which \[MS-IPHTTPS\] prescribes, and one for an address nobody is
//! known to use goes to all others.
//!
//! Router Advertisements and redirects from clients reach nobody in either mode: any client could otherwise make itself
//! the router of all others. Here the gateway is stricter than the specification.

use std::net::Ipv6Addr;

use super::advertise::advertisement;
use super::config::in_link_local;
use super::link::{Attachment, FromClient, Link, LinkSink};
use super::{Authentication, DropReason, LinkConfig, LinkEvent, SessionId};
use crate::core::time::Now;
use crate::wire::ndp::{self, ALL_NODES, ALL_ROUTERS, Discovery, Message};

impl Link {
    pub(super) fn discover(
        &self,
        now: Now,
        attachment: &mut Attachment,
        config: &LinkConfig,
        discovery: &Discovery,
        packet: &[u8],
        sink: &mut impl LinkSink,
    ) -> Result<FromClient, DropReason> {
        let Discovery { source, destination, .. } = *discovery;
        match discovery.message {
            Message::RouterAdvertisement(_) | Message::Redirect => Err(DropReason::RogueRouter),
            Message::RouterSolicitation => self.router_solicitation(now, attachment, config, source, destination, sink),
            Message::NeighbourSolicitation { target } if source.is_unspecified() => {
                self.duplicate_probe(now, attachment, config, target, packet, sink)
            }
            Message::NeighbourSolicitation { target } => {
                self.check_source(now, attachment, config, source, false, sink)?;
                if config.is_server(target) && target != destination && !destination.is_multicast() {
                    return Err(DropReason::ForeignTarget);
                }
                if config.is_server(target) {
                    self.spend_reply(now, attachment)?;
                    let reply = ndp::emit_neighbour_advertisement(target, source, target, true, true);
                    sink.send(attachment.session(), &reply);
                    self.counters.event(LinkEvent::Answered);
                    return Ok(FromClient::Consumed);
                }
                self.pass_on(now, attachment.session(), config, target, destination, packet, sink)
            }
            Message::NeighbourAdvertisement { target, .. } => {
                self.check_source(now, attachment, config, source, false, sink)?;
                if config.is_server(destination) {
                    return Ok(FromClient::Consumed);
                }
                match self.neighbours.owner_id(target) {
                    _ if config.is_server(target) => Err(DropReason::ServerSource),
                    // No other client has an entry for it, so none may get it (multicast).
                    Some(owner) if owner == attachment.session() && destination.is_multicast() => {
                        Ok(FromClient::Consumed)
                    }
                    Some(owner) if owner != attachment.session() => Err(DropReason::AddressInUse),
                    _ => self.pass_on(now, attachment.session(), config, destination, destination, packet, sink),
                }
            }
        }
    }

    /// Answered always, whoever asks: \[MS-IPHTTPS\] exempts solicitations from every drop rule. To the source when it is
    /// a link-local address of the session, otherwise to all nodes, in any case over this connection only.
    fn router_solicitation(
        &self,
        now: Now,
        attachment: &mut Attachment,
        config: &LinkConfig,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        sink: &mut impl LinkSink,
    ) -> Result<FromClient, DropReason> {
        if destination != ALL_ROUTERS && !config.is_server(destination) {
            return Err(DropReason::ForeignTarget);
        }
        let known = !source.is_unspecified() && self.check_source(now, attachment, config, source, false, sink).is_ok();
        self.spend_reply(now, attachment)?;
        let to = if known && in_link_local(source) { source } else { ALL_NODES };
        sink.send(attachment.session(), &advertisement(config).emit(config.link_local, to));
        self.counters.event(LinkEvent::Advertised);
        Ok(FromClient::Consumed)
    }

    fn duplicate_probe(
        &self,
        now: Now,
        attachment: &mut Attachment,
        config: &LinkConfig,
        target: Ipv6Addr,
        packet: &[u8],
        sink: &mut impl LinkSink,
    ) -> Result<FromClient, DropReason> {
        if config.is_server(target) {
            self.spend_reply(now, attachment)?;
            self.defend(attachment.session(), target, true, sink);
            return Ok(FromClient::Consumed);
        }
        if !config.on_link(target) {
            return Err(DropReason::ForeignTarget);
        }
        let owner = self.neighbours.owner_id(target).filter(|&owner| owner != attachment.session());
        match self.check_source(now, attachment, config, target, true, sink) {
            Ok(()) => {
                if config.authentication == Authentication::Certificates {
                    // The probe was heard and the address noted whether or not the copies are in the budget.
                    let _ = self.forward_multicast(now, attachment.session(), config, packet, sink);
                }
            }
            Err(reason @ (DropReason::AddressInUse | DropReason::AddressProbed)) => {
                self.spend_reply(now, attachment)?;
                if reason == DropReason::AddressInUse {
                    self.defend(attachment.session(), target, false, sink);
                }
                if let (Authentication::Certificates, Some(owner)) = (config.authentication, owner) {
                    sink.send(owner, packet);
                }
            }
            Err(reason) => return Err(reason),
        }
        Ok(FromClient::Consumed)
    }

    /// A Neighbor Advertisement to all nodes over one connection: S=0, O=1, no option, and R only for the server's own
    /// addresses. Its source is the target, as if the owner had sent it.
    pub(super) fn defend(&self, asker: SessionId, target: Ipv6Addr, router: bool, sink: &mut impl LinkSink) {
        sink.send(asker, &ndp::emit_neighbour_advertisement(target, ALL_NODES, target, router, false));
        self.counters.event(LinkEvent::Defended);
    }

    /// Neighbour discovery between clients: to the session of `wanted` when it is known, otherwise, if multicast, to all.
    #[allow(clippy::too_many_arguments)]
    fn pass_on(
        &self,
        now: Now,
        from: SessionId,
        config: &LinkConfig,
        wanted: Ipv6Addr,
        destination: Ipv6Addr,
        packet: &[u8],
        sink: &mut impl LinkSink,
    ) -> Result<FromClient, DropReason> {
        if config.authentication == Authentication::None {
            let multicast = destination.is_multicast();
            return Err(if multicast { DropReason::Multicast } else { DropReason::ForeignTarget });
        }
        match self.neighbours.owner_id(wanted) {
            Some(owner) if owner != from => {
                sink.send(owner, packet);
                Ok(FromClient::Consumed)
            }
            None if destination.is_multicast() => self.forward_multicast(now, from, config, packet, sink),
            _ => Err(DropReason::ForeignTarget),
        }
    }

    fn spend_reply(&self, now: Now, attachment: &mut Attachment) -> Result<(), DropReason> {
        attachment.replies.take(now, 1).then_some(()).ok_or(DropReason::ReplyRate)
    }
}
