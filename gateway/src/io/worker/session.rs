//! One connection at the server: the shell around its core, from accept to the end.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use rustls::pki_types::UnixTime;
use serde_json::json;

use super::Worker;
use super::info::SessionInfo;
use crate::core::frame::{Frame, HEADROOM, Offload};
use crate::core::impossible::{Impossible, happened};
use crate::core::iphttps::{
    Action, Admission, Attachment, CloseReason, Deframer, Format, FromClient, Identity, IllegalTransition, Place,
    Plaintext, Session as CoreSession, SessionId,
};
use crate::core::time::Now;
use crate::io::clock::unix_seconds;
use crate::io::events::seconds_since_epoch;
use crate::io::gateway::Live;
use crate::io::outgoing::{Run, segments};
use crate::io::outlet::Totals;
use crate::io::scratch::Sealing;
use crate::io::stats::Traffic;
use crate::io::tls::failure::is_flood;
use crate::io::tls::identity::{IdentityJson, identity_of, peer_text};
use crate::io::transport::{Lost, Transport};

/// How long a last answer may take to reach the peer.
const LINGER: Duration = Duration::from_secs(5);
/// Connections that may do so at the same time, so that a flood does not hold descriptors after it was refused.
const MAX_LINGERING: usize = 256;

/// An answer to a request that was handed up.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// What a session that is up has beyond its connection.
#[derive(Debug)]
struct Tunnel {
    info: Arc<SessionInfo>,
    /// The deframer's; readable while it works.
    format: Format,
    deframer: RefCell<Deframer>,
    /// None once it is detached.
    attachment: RefCell<Option<Attachment>>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    peer: SocketAddr,
    pub transport: Transport,
    tunnel: std::cell::OnceCell<Tunnel>,
    /// Set by whoever wants the session to end; its task does the rest.
    closing: Cell<Option<CloseReason>>,
    answer: RefCell<Option<Answer>>,
    began: Now,
    /// Whether TLS has accepted anything from it.
    has_spoken: Cell<bool>,
    /// Whether a request of it was handed up.
    waits_for_us: Cell<bool>,
    /// Since when something of the peer's has been waiting to be looked at, if it has.
    unread_since: Cell<Option<Now>>,
    /// How long such things have waited in all: the peer is not to blame for it.
    our_delay: Cell<Duration>,
}

impl Session {
    pub fn new(id: SessionId, peer: SocketAddr, transport: Transport, now: Now) -> Self {
        Self {
            id,
            peer,
            transport,
            tunnel: std::cell::OnceCell::new(),
            closing: Cell::new(None),
            answer: RefCell::new(None),
            began: now,
            has_spoken: Cell::new(false),
            waits_for_us: Cell::new(false),
            unread_since: Cell::new(None),
            our_delay: Cell::default(),
        }
    }

    /// What the connection is among those that are being set up.
    pub fn place(&self) -> Place {
        Place {
            id: self.id,
            peer: self.peer.ip(),
            began: self.began + self.our_delay.get(),
            has_spoken: self.has_spoken.get(),
            waits_for_us: self.waits_for_us.get() || self.unread_since.get().is_some(),
        }
    }

    /// Asks the session's task to end it.
    pub fn close(&self, reason: CloseReason) {
        if self.closing.get().is_none() {
            self.closing.set(Some(reason));
        }
        self.transport.wake();
    }

    pub fn answer(&self, answer: Answer) {
        *self.answer.borrow_mut() = Some(answer);
        self.transport.wake();
    }

    pub fn is_up(&self) -> bool {
        self.tunnel.get().is_some() && self.closing.get().is_none()
    }

    pub fn format(&self) -> Format {
        self.tunnel.get().map_or(Format::Packets, |tunnel| tunnel.format)
    }

    pub fn info(&self) -> Option<&Arc<SessionInfo>> {
        self.tunnel.get().map(|tunnel| &tunnel.info)
    }

    /// Sends one run, or lets it wait.
    pub fn send_run(&self, run: &Run, sealing: &mut Sealing) {
        if !self.is_up() {
            return;
        }
        match self.transport.send_run(run, sealing) {
            Ok(()) => {}
            Err(Lost::Tls(_)) => self.close(CloseReason::TlsFailed),
            Err(_) => self.close(CloseReason::PeerClosed),
        }
        self.publish();
    }

    /// Queues a packet for a socket that takes no more.
    pub fn let_wait(&self, packet: &[u8], offload: Offload) {
        if self.is_up() {
            self.transport.push(packet, offload);
            self.publish();
        }
    }

    /// Gives an unused queue's memory back; returns whether there is a queue still.
    pub fn rest(&self) -> bool {
        let remains = self.transport.rest();
        self.publish();
        remains
    }

    /// Shows others what was sent and what waits.
    fn publish(&self) {
        let Some(tunnel) = self.tunnel.get() else { return };
        let Totals { bytes, packets, unusable, queue } = self.transport.totals();
        let traffic = &tunnel.info.traffic;
        traffic.bytes_out.set(bytes);
        traffic.packets_out.set(packets);
        traffic.drop_unframeable.set(unusable);
        traffic.drop_queue_full.set(queue.dropped_full);
        traffic.drop_queue_delay.set(queue.dropped_delay);
        traffic.queued.set(queue.queued);
        traffic.marked.set(queue.marked);
        traffic.longest_wait.set(queue.longest.as_micros() as u64);
        tunnel.info.queue_bytes.store(self.transport.held(), Ordering::Relaxed);
    }
}

/// The connection ends, since nobody knows any more where it stands.
fn illegal(_: IllegalTransition) -> CloseReason {
    happened(Impossible::Transition);
    CloseReason::BadRequest
}

impl Worker {
    /// The life of one connection.
    pub(super) async fn serve(self: Rc<Self>, session: Rc<Session>, listener: Rc<str>) {
        let negotiated = {
            // Not longer: a tunnel would keep the configuration it was admitted under.
            let live = self.shared.live();
            Box::pin(self.negotiate(&session, &live, &listener)).await
        };
        self.end_of_handshake(&session);
        let reason = match negotiated {
            Ok(()) => self.pump(&session).await,
            Err(reason) => reason,
        };
        // A session may be up and end on the first bytes of its stream, which came with the request.
        let was_up = session.tunnel.get().is_some();
        self.went_down(&session, reason);
        self.shared.forget_requests(session.id);
        if !was_up && reason != CloseReason::Answered {
            self.handle().counters.refused.add(1);
            self.shared.events.refused(&peer_text(session.peer), reason.as_str());
        }
        if matches!(reason, CloseReason::PeerClosed) {
            return;
        }
        session.transport.close(&mut self.scratch.borrow_mut().cipher_out);
        if !was_up && self.lingering.get() < MAX_LINGERING {
            self.lingering.set(self.lingering.get() + 1);
            // Nothing more can be done for a peer that does not take its answer. On the heap, as the negotiation is: the
            // room that a future may need is taken from its beginning to its end, and tunnels live long.
            let _ = Box::pin(tokio::time::timeout(LINGER, session.transport.drain())).await;
            self.lingering.set(self.lingering.get() - 1);
        }
    }

    /// Everything until the tunnel is up. The error is why there is none.
    async fn negotiate(
        self: &Rc<Self>,
        session: &Rc<Session>,
        live: &Live,
        listener: &Rc<str>,
    ) -> Result<(), CloseReason> {
        let config = &live.session;
        let clock = self.shared.clock;
        let mut core = CoreSession::new(clock.now(), config);
        let mut handshaking = true;
        loop {
            if let Some(reason) = session.closing.get() {
                return Err(reason);
            }
            let answer = session.answer.borrow_mut().take();
            if let Some(answer) = answer {
                let mut out = Vec::new();
                let Answer { status, content_type, body } = answer;
                core.answer(status, &content_type, &body, unix_seconds(), &mut out)
                    .map_err(|_| CloseReason::AnswerTimeout)?;
                self.send_control(session, &out)?;
                return Err(CloseReason::Answered);
            }
            let deadline = core.next_timeout().unwrap_or_else(|| clock.now());
            match tokio::time::timeout_at(clock.instant(deadline), session.transport.ready(&self.scratch)).await {
                Err(_) => match core.handle_timeout(clock.now()) {
                    Some(reason) => return Err(reason),
                    None => continue,
                },
                Ok(Err(_)) => return Err(CloseReason::PeerClosed),
                Ok(Ok(false)) => continue,
                Ok(Ok(true)) => {}
            }
            // Few handshakes compute in one turn of the event loop, so that packets of those who are in wait little.
            session.unread_since.set(Some(clock.now()));
            let permit = self.handshake_gate.acquire().await;
            let plain = self.read_plain(session, handshaking)?;
            if let Some(since) = session.unread_since.take() {
                session.our_delay.set(session.our_delay.get() + clock.now().since(since));
            }
            session.has_spoken.set(session.has_spoken.get() || session.transport.has_answered());
            if handshaking && !session.transport.is_handshaking() {
                handshaking = false;
                let admission = self.admission(session, live);
                self.handle().counters.handshakes.add(1);
                if session.transport.resumed() {
                    self.handle().counters.resumed.add(1);
                }
                core.handshake_done(clock.now(), config, admission).map_err(illegal)?;
                if let Some(reason) = core.close_reason() {
                    return Err(reason);
                }
            }
            if handshaking {
                tokio::task::yield_now().await;
                continue;
            }
            if !plain.is_empty() {
                let mut out = Vec::new();
                let received = core.receive(clock.now(), config, &plain, unix_seconds(), &mut out);
                let received = received.map_err(illegal)?;
                self.send_control(session, &out)?;
                match received.action {
                    Action::NeedMore => {}
                    Action::Close(reason) => return Err(reason),
                    Action::Request(request) => {
                        let body = BASE64_STANDARD.encode(&request.body);
                        let event = json!({
                            "peer": peer_text(session.peer),
                            "method": request.method,
                            "path": request.path,
                            "body_base64": body,
                            "identity": core.identity().map(|identity| IdentityJson::from(&**identity)),
                        });
                        if !self.shared.hand_up(session.id.0, live.config.http.max_pending, event) {
                            self.handle().counters.requests_dropped.add(1);
                            let mut out = Vec::new();
                            let busy = core.answer(503, "text/plain", b"busy\n", unix_seconds(), &mut out);
                            busy.map_err(illegal)?;
                            self.send_control(session, &out)?;
                            return Err(CloseReason::Answered);
                        }
                        session.waits_for_us.set(true);
                        self.handle().counters.requests.add(1);
                    }
                    Action::Tunnel { segments } => {
                        let mut out = Vec::new();
                        self.join(session, &mut core, segments, live, listener)?;
                        core.up(unix_seconds(), &mut out).map_err(illegal)?;
                        // With the answer to a router solicitation that came together with the request.
                        let held = session.transport.hold(&out, &mut self.scratch.borrow_mut().cipher_out);
                        held.map_err(|_| CloseReason::PeerClosed)?;
                        let delivered = match &plain[received.used..] {
                            [] => Ok(()),
                            early => self.deliver(session, early),
                        };
                        session.transport.release().map_err(|_| CloseReason::PeerClosed)?;
                        return delivered;
                    }
                }
            }
            drop(permit);
            tokio::task::yield_now().await;
        }
    }

    fn read_plain(&self, session: &Session, handshaking: bool) -> Result<Vec<u8>, CloseReason> {
        let result = self.receive(session);
        let scratch = &mut *self.scratch.borrow_mut();
        let plain = scratch.plain_in.bytes().to_vec();
        scratch.plain_in.clear();
        match result {
            Ok(_) => Ok(plain),
            Err(Lost::Tls(error)) if handshaking => {
                self.handle().counters.handshake_failures.add(1);
                self.shared.events.warn("TLS_FAILED", &format!("{}: {error}", peer_text(session.peer)));
                Err(CloseReason::NotAdmitted)
            }
            Err(lost) => Err(self.lost(session, &lost)),
        }
    }

    /// Why a connection ended that had been established.
    fn lost(&self, session: &Session, lost: &Lost) -> CloseReason {
        let Lost::Tls(error) = lost else { return CloseReason::PeerClosed };
        let counters = &self.handle().counters;
        counters.tls_failures.add(1);
        counters.tls_floods.add(u64::from(is_flood(error)));
        self.shared.events.warn("TLS_FAILED", &format!("{}: {error}", peer_text(session.peer)));
        CloseReason::TlsFailed
    }

    /// What the certificate says, checked once more: a resumed session brings a certificate that was good when its ticket
    /// was made.
    fn admission(&self, session: &Session, live: &Live) -> Admission {
        session.transport.with_peer_certificates(|chain| {
            let Some((own, others)) = chain.split_first() else { return Admission::Anonymous };
            let identity = match &live.tls.verifier {
                Some(verifier) => verifier.admit(own, others, UnixTime::now()).ok(),
                None => identity_of(own).map(Arc::new),
            };
            let good = |identity: &Arc<Identity>| {
                !self.shared.is_revoked(identity) && identity.not_after > seconds_since_epoch() as i64
            };
            identity.filter(good).map_or(Admission::Refused, Admission::Admitted)
        })
    }

    fn send_control(&self, session: &Session, out: &[u8]) -> Result<(), CloseReason> {
        if out.is_empty() {
            return Ok(());
        }
        let scratch = &mut *self.scratch.borrow_mut();
        session.transport.send(out, &mut scratch.cipher_out).map_err(|_| CloseReason::PeerClosed)?;
        Ok(())
    }

    /// Enters the session into the link and the registry.
    fn join(
        &self,
        session: &Rc<Session>,
        core: &mut CoreSession,
        segments: bool,
        live: &Live,
        listener: &Rc<str>,
    ) -> Result<(), CloseReason> {
        let identity = core.identity().cloned();
        let attached = self.shared.link.attach(self.shared.clock.now(), session.id, identity.clone());
        let attachment = attached?;
        let info = Arc::new(SessionInfo {
            id: session.id.0,
            peer: session.peer,
            listener: listener.to_string(),
            identity,
            tls: session.transport.version(),
            resumed: session.transport.resumed(),
            segments,
            since: seconds_since_epoch(),
            traffic: Traffic::default(),
            queue_bytes: AtomicUsize::new(0),
            link_drops: Mutex::default(),
        });
        if self.shared.registry.lock().insert(session.id.0, info.clone()).is_some() {
            happened(Impossible::SessionTwice);
        }
        self.shared.events.push("session_up", info.opened());
        self.handle().counters.sessions_opened.add(1);
        self.got_through(session);
        let format = if segments { Format::Segments } else { Format::Packets };
        session.transport.begin(format, live.config.iphttps.queue_bytes);
        let deframer = RefCell::new(Deframer::new(format));
        if let Some(identity) = &info.identity {
            self.expiries.borrow_mut().insert((identity.not_after, session.id));
        }
        // Nobody else sets it, and this is reached once.
        let _ = session.tunnel.set(Tunnel { info, format, deframer, attachment: RefCell::new(Some(attachment)) });
        // The configuration may have changed since this connection was accepted, and the list of revoked certificates
        // since its handshake.
        let now = self.shared.live();
        if std::ptr::eq(&raw const *now, live) {
            self.close_if_revoked(session);
        } else {
            self.recheck_one(session, &now);
        }
        Ok(())
    }

    /// Moves packets until the session ends.
    async fn pump(self: &Rc<Self>, session: &Rc<Session>) -> CloseReason {
        loop {
            if let Some(reason) = session.closing.get() {
                return reason;
            }
            let ready = session.transport.ready(&self.scratch).await;
            session.publish();
            match ready {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => return CloseReason::PeerClosed,
            }
            let (fresh, more) = match self.receive(session) {
                Ok(received) => received,
                Err(lost) => {
                    let reason = self.lost(session, &lost);
                    return session.closing.get().unwrap_or(reason);
                }
            };
            let mut plain = std::mem::take(&mut self.scratch.borrow_mut().plain_in);
            let mut input = plain.input();
            let result = self.deliver_from(session, &mut input, fresh);
            let rest = input.start;
            plain.consume_to(rest);
            self.scratch.borrow_mut().plain_in = plain;
            if let Err(reason) = result {
                return reason;
            }
            if more {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Opens what the socket has behind the start of a packet that this session left; of another session's it makes that
    /// session's own. Returns how many bytes it was and whether the socket may hold more.
    fn receive(&self, session: &Session) -> Result<(usize, bool), Lost> {
        let scratch = &mut *self.scratch.borrow_mut();
        if scratch.plain_of != Some(session.id) {
            let owner = scratch.plain_of.and_then(|id| self.sessions.borrow().get(&id).cloned());
            if let Some(tunnel) = owner.as_ref().and_then(|owner| owner.tunnel.get()) {
                tunnel.deframer.borrow_mut().hold(&mut scratch.plain_in.input());
            }
            scratch.plain_in.clear();
            scratch.plain_of = Some(session.id);
        }
        let before = scratch.plain_in.len();
        let more = session.transport.receive(scratch)?;
        Ok((scratch.plain_in.len() - before, more))
    }

    /// Bytes of the stream that came together with the request.
    fn deliver(&self, session: &Rc<Session>, early: &[u8]) -> Result<(), CloseReason> {
        let Some(tunnel) = session.tunnel.get() else { return Ok(()) };
        let mut plain = vec![0; HEADROOM];
        plain.extend_from_slice(early);
        let end = plain.len();
        let mut input = Plaintext { buffer: &mut plain, start: HEADROOM, end };
        let result = self.deliver_from(session, &mut input, early.len());
        tunnel.deframer.borrow_mut().hold(&mut input);
        result
    }

    /// Handles the packets of one vector, of which `fresh` bytes are new. The start of one more may remain in `input`.
    fn deliver_from(&self, session: &Rc<Session>, input: &mut Plaintext<'_>, fresh: usize) -> Result<(), CloseReason> {
        let Some(tunnel) = session.tunnel.get() else { return Ok(()) };
        let now = self.shared.clock.now();
        let counters = &self.handle().counters;
        let (mut packets, mut dropped) = (0, 0);
        let mut deframer = tunnel.deframer.borrow_mut();
        let mut attachment = tunnel.attachment.borrow_mut();
        let Some(attachment) = attachment.as_mut() else { return Ok(()) };
        let result = loop {
            let mut frame = match deframer.next_at_hand(input) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.close_reason()),
            };
            packets += segments(frame.bytes(), frame.offload);
            match self.shared.link.from_client(now, attachment, &mut frame, &mut super::Sink(self)) {
                FromClient::ToHost => self.to_host(&mut frame),
                FromClient::Consumed => {}
                FromClient::Drop(_) => dropped += 1,
            }
        };
        self.end_of_vector();
        let traffic = &tunnel.info.traffic;
        traffic.bytes_in.add(fresh as u64);
        traffic.packets_in.add(packets);
        if dropped > 0 {
            *tunnel.info.link_drops.lock() = attachment.drops().clone();
        }
        counters.bytes_in.add(fresh as u64);
        counters.packets_in.add(packets);
        counters.drop_link.add(dropped);
        result
    }

    fn to_host(&self, frame: &mut Frame<'_>) {
        if self.is_for_nat64(frame.bytes()) {
            self.to_nat64(frame);
        } else {
            self.tunnel_writer.borrow_mut().push(frame);
        }
    }

    /// Takes a session that was up off the link and out of the registry, once.
    pub(super) fn went_down(&self, session: &Rc<Session>, reason: CloseReason) {
        let Some(tunnel) = session.tunnel.get() else { return };
        let Some(attachment) = tunnel.attachment.borrow_mut().take() else { return };
        self.shared.link.detach(attachment);
        let info = &tunnel.info;
        if let Some(identity) = &info.identity {
            self.expiries.borrow_mut().remove(&(identity.not_after, session.id));
        }
        if self.shared.registry.lock().remove(&session.id.0).is_none() {
            happened(Impossible::SessionUnregistered);
        }
        self.handle().counters.sessions_closed.add(1);
        self.shared.events.push("session_down", info.closed(reason));
    }
}
