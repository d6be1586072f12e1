//! The link that all sessions of a server share: who may send what to whom (\[MS-IPHTTPS\] 3.2.5.2).
//!
//! Most packets take the fast path at the top of [`Link::from_client`]: a known source of this session, an ordinary
//! destination, nothing for the link itself. It takes no lock. Everything else (neighbour discovery, multicast,
//! link-local, a new source, an oversized packet) is looked at in full; discovery itself is in `discovery.rs`.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::advertise::Advertiser;
use super::config::in_link_local;
use super::limiter::Limiter;
use super::neighbours::{Claim, Member, Neighbours, PROBE_INTERVAL, Probed, TableSizes};
use super::{
    Authentication, CloseReason, ConfigError, DropCounters, DropReason, Identity, LinkConfig, LinkCounters, LinkEvent,
    MTU, SessionId,
};
use crate::core::frame::{Frame, SegmentKind};
use crate::core::time::Now;
use crate::wire::icmpv6::{ErrorMessage, may_answer};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{be16, ndp};

/// An owner heard within this time defends its address without being asked.
pub(super) const RECENT: Duration = Duration::from_secs(1);
/// How exactly other threads know when a session was last heard.
const HEARD_STEP: Duration = Duration::from_millis(100);
/// Address unreachable (RFC 4443 section 3.1).
const ADDRESS_UNREACHABLE: u8 = 3;

/// What the shell does for the link. Packets are plain IPv6 packets; the shell puts a segment header before them where
/// the session has that format.
pub trait LinkSink {
    fn send(&mut self, session: SessionId, packet: &[u8]);
    /// Sends to every attached session but one.
    fn broadcast_except(&mut self, session: SessionId, packet: &[u8]);
    /// Disconnect the session and detach its [`Attachment`].
    fn evict(&mut self, session: SessionId, reason: CloseReason);
    /// The session owns the address now.
    fn learned(&mut self, session: SessionId, address: Ipv6Addr);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Hand the frame to NAT64 or the kernel.
    ToHost,
    /// It was for the link.
    Consumed,
    Drop(DropReason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromHost {
    To(SessionId),
    /// Multicast, in mode Certificates.
    ToAll,
    /// It cannot be delivered: give this ICMPv6 error to the host.
    Undeliverable(Vec<u8>),
    Drop(DropReason),
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    address: Ipv6Addr,
    used: Now,
}

/// A session's place on the link, held by the worker that owns the session.
#[derive(Debug)]
pub struct Attachment {
    pub(super) member: Arc<Member>,
    generation: u32,
    heard: Now,
    owned: Vec<Owned>,
    /// Answers to neighbour discovery.
    pub(super) replies: Limiter,
    errors: Limiter,
    drops: DropCounters,
}

impl Attachment {
    pub fn session(&self) -> SessionId {
        self.member.id
    }

    /// The addresses the session owns.
    pub fn addresses(&self) -> Vec<Ipv6Addr> {
        self.member.addresses()
    }

    /// Packets from this session that went nowhere.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// When a packet last came from the session, to a tenth of a second.
    pub fn last_heard(&self) -> Now {
        self.heard
    }
}

/// The link. Share it between workers.
#[derive(Debug)]
pub struct Link {
    config: RwLock<Arc<LinkConfig>>,
    pub(super) neighbours: Neighbours,
    advertiser: Mutex<Advertiser>,
    /// Copies of multicast packets passed between clients.
    copies: Mutex<Limiter>,
    /// Errors to the host.
    host_errors: Mutex<Limiter>,
    /// The earliest timeout, in the unit of [`Now`].
    wake: AtomicU64,
    pub(super) counters: LinkCounters,
}

impl Link {
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: LinkConfig, now: Now) -> Result<Self, ConfigError> {
        config.check()?;
        let advertiser = Advertiser::new(&config, now);
        Ok(Self {
            wake: AtomicU64::new(advertiser.due().0),
            advertiser: Mutex::new(advertiser),
            config: RwLock::new(Arc::new(config)),
            neighbours: Neighbours::new(),
            copies: Mutex::new(Limiter::new(20_000, 20_000)),
            host_errors: Mutex::new(Limiter::new(1_000, 100)),
            counters: LinkCounters::default(),
        })
    }

    pub(super) fn config(&self) -> Arc<LinkConfig> {
        Arc::clone(&self.config.read())
    }

    /// Replaces the configuration. A changed authentication mode evicts every session (\[MS-IPHTTPS\] 3.2.7.1);
    /// otherwise clients hear a new advertisement at once and keep the addresses that are still possible.
    ///
    /// # Errors
    /// When the configuration makes no sense; the one in force stays.
    pub fn configure(&self, config: LinkConfig, now: Now, sink: &mut impl LinkSink) -> Result<(), ConfigError> {
        config.check()?;
        let before = self.config();
        if *before == config {
            return Ok(());
        }
        let config = Arc::new(config);
        *self.config.write() = Arc::clone(&config);
        if before.authentication != config.authentication {
            self.close_all(CloseReason::AuthenticationChanged, sink);
        }
        self.neighbours.retain(|address| config.on_link(address) && !config.is_server(address));
        self.advertiser.lock().renew(&config, now);
        self.wake.fetch_min(now.0, Ordering::Relaxed);
        Ok(())
    }

    /// Adds a session to the client table; the 200 response follows.
    ///
    /// # Errors
    /// `TableFull`, or `NoIdentity` in mode Certificates, also when that mode has just been set: disconnect.
    pub fn attach(
        &self,
        now: Now,
        session: SessionId,
        identity: Option<Arc<Identity>>,
    ) -> Result<Attachment, CloseReason> {
        // Held until the session is in the table: a change of mode sees it there or is seen here.
        let config = self.config.read();
        if config.authentication == Authentication::Certificates && identity.is_none() {
            return Err(CloseReason::NoIdentity);
        }
        let member = self.neighbours.add(now, session, identity, config.max_sessions);
        let member = member.ok_or(CloseReason::TableFull)?;
        Ok(Attachment {
            generation: member.generation(),
            member,
            heard: now,
            owned: Vec::new(),
            replies: Limiter::new(20, 40),
            errors: Limiter::new(10, 10),
            drops: DropCounters::default(),
        })
    }

    /// Removes a session and everything it owned.
    pub fn detach(&self, attachment: Attachment) {
        self.neighbours.remove(&attachment.member);
    }

    /// Evicts every session.
    pub fn close_all(&self, reason: CloseReason, sink: &mut impl LinkSink) {
        for member in self.neighbours.members() {
            self.evict(&member, reason, sink);
        }
    }

    /// Sessions in the client table.
    pub fn sessions(&self) -> usize {
        self.neighbours.len()
    }

    /// Entries of the link's tables: sessions, addresses and probes that are out.
    pub fn table_sizes(&self) -> TableSizes {
        self.neighbours.sizes()
    }

    /// The session that owns an address.
    pub fn owner(&self, address: Ipv6Addr) -> Option<SessionId> {
        self.neighbours.owner_id(address)
    }

    /// The addresses a session owns.
    pub fn addresses(&self, session: SessionId) -> Vec<Ipv6Addr> {
        self.neighbours.member(session).map_or_else(Vec::new, |member| member.addresses())
    }

    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    fn evict(&self, member: &Arc<Member>, reason: CloseReason, sink: &mut impl LinkSink) {
        if self.neighbours.remove(member) {
            sink.evict(member.id, reason);
        }
    }

    /// Decides about a packet or super-segment from a client.
    pub fn from_client(
        &self,
        now: Now,
        attachment: &mut Attachment,
        frame: &mut Frame<'_>,
        sink: &mut impl LinkSink,
    ) -> FromClient {
        if now.since(attachment.heard) >= HEARD_STEP {
            attachment.heard = now;
            attachment.member.heard(now);
        }
        if attachment.generation != attachment.member.generation() {
            self.refresh(now, attachment, sink);
        }
        if is_plain(frame) {
            let source = ipv6::source(frame.bytes());
            if let Some(owned) = attachment.owned.iter_mut().find(|owned| owned.address == source) {
                owned.used = now;
                return FromClient::ToHost;
            }
        }
        match self.look(now, attachment, frame, sink) {
            Ok(outcome) => outcome,
            Err(reason) => {
                attachment.drops.count(reason);
                self.counters.drop(reason);
                FromClient::Drop(reason)
            }
        }
    }

    /// Something changed for the session, or somebody asks whether it lives.
    fn refresh(&self, now: Now, attachment: &mut Attachment, sink: &mut impl LinkSink) {
        attachment.generation = attachment.member.generation();
        let held = attachment.member.addresses();
        attachment.owned.retain(|owned| held.contains(&owned.address));
        attachment.member.heard(now);
        for outcome in self.neighbours.answered(&attachment.member) {
            self.settle(now, outcome, sink);
        }
    }

    /// Everything that is not on the fast path.
    fn look(
        &self,
        now: Now,
        attachment: &mut Attachment,
        frame: &Frame<'_>,
        sink: &mut impl LinkSink,
    ) -> Result<FromClient, DropReason> {
        if attachment.member.is_closed() {
            return Err(DropReason::Evicted);
        }
        let config = self.config();
        let packet = frame.bytes();
        let header = Ipv6Header::parse(packet).map_err(|_| DropReason::Malformed)?;
        if ipv6::HEADER_LEN + header.payload_len != packet.len() {
            return Err(DropReason::Malformed);
        }
        let destination = header.destination;
        if destination.is_unspecified() || destination.is_loopback() || destination.to_ipv4_mapped().is_some() {
            return Err(DropReason::BadDestination);
        }
        let upper = ipv6::upper_layer(packet, &header).map_err(|_| DropReason::Malformed)?;
        let first = upper.fragment.is_none_or(|fragment| fragment.offset == 0);
        let icmp = (first && upper.protocol == ipv6::ICMPV6).then(|| packet.get(upper.offset).copied()).flatten();
        if let Some(ndp::ROUTER_SOLICITATION..=ndp::REDIRECT) = icmp {
            // Fragmented discovery does not exist (RFC 6980), and extension headers before it serve only to hide it.
            if upper.offset != ipv6::HEADER_LEN {
                return Err(DropReason::Hidden);
            }
            let discovery = ndp::parse(packet).map_err(|_| DropReason::InvalidDiscovery)?;
            return self.discover(now, attachment, &config, &discovery, packet, sink);
        }
        let listener_report = matches!(icmp, Some(130..=132 | 143));
        if header.source.is_unspecified() {
            if !(destination.is_multicast() && listener_report) {
                return Err(DropReason::UnspecifiedSource);
            }
        } else {
            self.check_source(now, attachment, &config, header.source, false, sink)?;
        }
        if frame.offload.kind == SegmentKind::None && packet.len() > MTU {
            self.too_big(now, attachment, &config, &header, packet, sink);
            return Err(DropReason::TooBig);
        }
        if destination.is_multicast() {
            // Listener reports are for routers, and the only router on the link has no use for them.
            if listener_report && config.authentication == Authentication::Certificates {
                return Ok(FromClient::Consumed);
            }
            return self.forward_multicast(now, attachment.session(), &config, packet, sink);
        }
        if config.is_server(destination) {
            return Ok(FromClient::ToHost);
        }
        if in_link_local(destination) || destination.is_unicast_link_local() {
            return self.forward_link_local(&config, destination, packet, sink);
        }
        // A packet from a link-local source leaves its link only by mistake (RFC 4291 section 2.5.6).
        if header.source.is_unicast_link_local() {
            return Err(DropReason::ForeignSource);
        }
        Ok(FromClient::ToHost)
    }

    /// Sees to it that `source` is the session's. With `defend`, a duplicate address probe waits for the outcome.
    pub(super) fn check_source(
        &self,
        now: Now,
        attachment: &mut Attachment,
        config: &LinkConfig,
        source: Ipv6Addr,
        defend: bool,
        sink: &mut impl LinkSink,
    ) -> Result<(), DropReason> {
        if config.is_server(source) {
            return Err(DropReason::ServerSource);
        }
        if !config.on_link(source) {
            return Err(DropReason::ForeignSource);
        }
        let mut claim = self.neighbours.claim(source, &attachment.member, config.max_addresses_per_session);
        if matches!(claim, Claim::Limit) {
            let stale = attachment
                .owned
                .iter()
                .filter(|owned| now.since(owned.used) >= config.idle_probe)
                .min_by_key(|owned| owned.used)
                .map(|owned| owned.address);
            if let Some(stale) = stale {
                self.neighbours.release(stale, &attachment.member);
                attachment.owned.retain(|owned| owned.address != stale);
                claim = self.neighbours.claim(source, &attachment.member, config.max_addresses_per_session);
            }
        }
        match claim {
            Claim::Held => {}
            Claim::New => sink.learned(attachment.session(), source),
            Claim::TakenOver(old) => {
                self.counters.event(LinkEvent::TakenOver);
                self.evict(&old, CloseReason::Replaced, sink);
                sink.learned(attachment.session(), source);
            }
            Claim::InUse(owner) => {
                if now.since(owner.last_heard()) < RECENT {
                    return Err(DropReason::AddressInUse);
                }
                if self.neighbours.probe(now, source, &owner, attachment.session(), defend) {
                    self.ask(config, owner.id, source, sink);
                    self.wake.fetch_min((now + PROBE_INTERVAL).0, Ordering::Relaxed);
                }
                return Err(DropReason::AddressProbed);
            }
            Claim::Limit => return Err(DropReason::AddressLimit),
            Claim::Closed => return Err(DropReason::Evicted),
        }
        match attachment.owned.iter_mut().find(|owned| owned.address == source) {
            Some(owned) => owned.used = now,
            None => attachment.owned.push(Owned { address: source, used: now }),
        }
        Ok(())
    }

    /// A unicast Neighbor Solicitation that a living owner answers.
    fn ask(&self, config: &LinkConfig, owner: SessionId, address: Ipv6Addr, sink: &mut impl LinkSink) {
        self.counters.event(LinkEvent::Probed);
        sink.send(owner, &ndp::emit_neighbour_solicitation(config.link_local, address, address));
    }

    fn too_big(
        &self,
        now: Now,
        attachment: &mut Attachment,
        config: &LinkConfig,
        header: &Ipv6Header,
        packet: &[u8],
        sink: &mut impl LinkSink,
    ) {
        if header.source.is_unspecified() || !may_answer(packet) || !attachment.errors.take(now, 1) {
            return;
        }
        let error = ErrorMessage::packet_too_big(MTU as u32);
        sink.send(attachment.session(), &emit_error(error, config.error_source(header.source), header.source, packet));
        self.counters.event(LinkEvent::Errors);
    }

    fn forward_link_local(
        &self,
        config: &LinkConfig,
        destination: Ipv6Addr,
        packet: &[u8],
        sink: &mut impl LinkSink,
    ) -> Result<FromClient, DropReason> {
        if config.authentication == Authentication::None {
            return Err(DropReason::LinkLocalToClient);
        }
        let owner = self.neighbours.owner_id(destination).ok_or(DropReason::NotOnLink)?;
        sink.send(owner, packet);
        Ok(FromClient::Consumed)
    }

    /// Passes multicast on to all other clients in mode Certificates, within the budget of copies.
    pub(super) fn forward_multicast(
        &self,
        now: Now,
        from: SessionId,
        config: &LinkConfig,
        packet: &[u8],
        sink: &mut impl LinkSink,
    ) -> Result<FromClient, DropReason> {
        if config.authentication == Authentication::None {
            return Err(DropReason::Multicast);
        }
        self.spend_copies(now)?;
        sink.broadcast_except(from, packet);
        Ok(FromClient::Consumed)
    }

    fn spend_copies(&self, now: Now) -> Result<(), DropReason> {
        let copies = self.neighbours.len() as u64;
        if !self.copies.lock().take(now, copies) {
            return Err(DropReason::MulticastRate);
        }
        self.counters.event(LinkEvent::MulticastForwarded);
        Ok(())
    }

    /// Decides about a packet or super-segment from the host. Only headers are read. `longest` is the length of the
    /// longest packet it stands for, in bytes: the kernel keeps to the MTU of its device, which somebody may have changed.
    pub fn from_host(&self, now: Now, packet: &[u8], longest: usize) -> FromHost {
        let outcome = self.look_from_host(now, packet, longest);
        outcome.unwrap_or_else(|reason| {
            self.counters.drop(reason);
            FromHost::Drop(reason)
        })
    }

    fn look_from_host(&self, now: Now, packet: &[u8], longest: usize) -> Result<FromHost, DropReason> {
        if packet.len() < ipv6::HEADER_LEN || packet[0] >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        let destination = ipv6::destination(packet);
        if destination.is_multicast() {
            return self.multicast_from_host(now, packet, longest);
        }
        if let Some(owner) = self.neighbours.owner_id(destination) {
            if longest > MTU {
                return self.host_error(now, ErrorMessage::packet_too_big(MTU as u32), packet, DropReason::TooBig);
            }
            return Ok(FromHost::To(owner));
        }
        let config = self.config();
        if !config.on_link(destination) || config.is_server(destination) {
            return Err(DropReason::NotOnLink);
        }
        self.host_error(now, ErrorMessage::unreachable(ADDRESS_UNREACHABLE), packet, DropReason::Unreachable)
    }

    /// An error about a packet of the host, or `reason` when none may be sent.
    fn host_error(
        &self,
        now: Now,
        error: ErrorMessage,
        packet: &[u8],
        reason: DropReason,
    ) -> Result<FromHost, DropReason> {
        let source = ipv6::source(packet);
        if source.is_unspecified() || !may_answer(packet) || !self.host_errors.lock().take(now, 1) {
            return Err(reason);
        }
        self.counters.event(LinkEvent::Errors);
        Ok(FromHost::Undeliverable(emit_error(error, self.config().error_source(source), source, packet)))
    }

    /// In mode None only advertisements are multicast, and those come from here. In mode Certificates the kernel's own
    /// discovery and listener reports stay out as well: this link does its discovery itself.
    fn multicast_from_host(&self, now: Now, packet: &[u8], longest: usize) -> Result<FromHost, DropReason> {
        if self.config().authentication == Authentication::None {
            return Err(DropReason::HostMulticast);
        }
        let header = Ipv6Header::parse(packet).map_err(|_| DropReason::Malformed)?;
        let upper = ipv6::upper_layer(packet, &header).map_err(|_| DropReason::Malformed)?;
        let kind = packet.get(upper.offset).copied();
        if upper.protocol == ipv6::ICMPV6 && matches!(kind, None | Some(130..=137 | 143)) {
            return Err(DropReason::HostMulticast);
        }
        if longest > MTU {
            return Err(DropReason::TooBig);
        }
        self.spend_copies(now)?;
        Ok(FromHost::ToAll)
    }

    /// The next time [`Link::handle_timeout`] has work. Another worker may move it forward: look again at least every
    /// 100 ms.
    pub fn next_timeout(&self) -> Option<Now> {
        Some(Now(self.wake.load(Ordering::Relaxed)))
    }

    /// Sends due advertisements and follows up probes. `jitter` in 0..1 spreads advertisements.
    pub fn handle_timeout(&self, now: Now, jitter: f64, sink: &mut impl LinkSink) {
        if self.wake.load(Ordering::Relaxed) > now.0 {
            return;
        }
        self.wake.store(u64::MAX, Ordering::Relaxed);
        let (outcomes, next_probe) = self.neighbours.due_probes(now);
        for outcome in outcomes {
            self.settle(now, outcome, sink);
        }
        let config = self.config();
        let mut advertiser = self.advertiser.lock();
        if let Some((batch, packet)) = advertiser.step(now, jitter, &config, || self.neighbours.ids()) {
            for session in batch {
                sink.send(session, packet);
                self.counters.event(LinkEvent::Advertised);
            }
        }
        let next = next_probe.map_or(advertiser.due(), |probe| probe.min(advertiser.due()));
        self.wake.fetch_min(next.0, Ordering::Relaxed);
    }

    fn settle(&self, now: Now, outcome: Probed, sink: &mut impl LinkSink) {
        match outcome {
            Probed::Ask { owner, address } => self.ask(&self.config(), owner, address, sink),
            Probed::Alive { address, askers } => {
                for asker in askers.into_iter().filter(|&asker| self.neighbours.member(asker).is_some()) {
                    self.defend(asker, address, false, sink);
                }
            }
            Probed::Silent { owner, address, askers } => {
                self.counters.event(LinkEvent::EvictedSilent);
                self.evict(&owner, CloseReason::Silent, sink);
                let heir = askers.into_iter().find_map(|asker| self.neighbours.member(asker));
                let max = self.config().max_addresses_per_session;
                if let Some(heir) = heir
                    && matches!(self.neighbours.claim(address, &heir, max), Claim::New)
                {
                    heir.heard(heir.last_heard().max(now));
                    sink.learned(heir.id, address);
                }
            }
        }
    }
}

/// Whether nothing about a packet concerns the link itself, except whose source it has.
fn is_plain(frame: &Frame<'_>) -> bool {
    let packet = frame.bytes();
    if packet.len() < ipv6::HEADER_LEN || ipv6::HEADER_LEN + usize::from(be16(packet, 4)) != packet.len() {
        return false;
    }
    let fits = packet.len() <= MTU || frame.offload.kind != SegmentKind::None;
    let ordinary = match packet[6] {
        ipv6::TCP | ipv6::UDP => true,
        ipv6::ICMPV6 => {
            packet.get(ipv6::HEADER_LEN).is_some_and(|kind| !(ndp::ROUTER_SOLICITATION..=ndp::REDIRECT).contains(kind))
        }
        _ => false,
    };
    let link_local = |first: u8, second: u8| first == 0xfe && second & 0xc0 == 0x80;
    fits && ordinary
        && packet[24] != 0xff
        && packet[24..26] != [0, 0]
        && !link_local(packet[24], packet[25])
        && !link_local(packet[8], packet[9])
}

fn emit_error(error: ErrorMessage, source: Ipv6Addr, destination: Ipv6Addr, invoking: &[u8]) -> Vec<u8> {
    let mut reply = vec![0; MTU];
    let length = error.emit(&mut reply, source, destination, invoking);
    reply.truncate(length);
    reply
}
