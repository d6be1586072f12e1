//! One worker: a thread with its own event loop, listeners, TUN queues and sessions. What workers share is in
//! `gateway::Shared`; what one session owns is touched by its worker only.

mod handover;
mod host_in;
pub mod info;
mod listener;
mod nat64;
mod runs;
pub mod session;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::LocalSet;

use self::nat64::Nat64Path;
use self::runs::Runs;
use self::session::{Answer, Session};
use super::clock::jitter;
use super::events::seconds_since_epoch;
use super::gateway::{Live, Shared, WorkerHandle};
use super::host::{HostWriter, MergingWriter};
use super::scratch::Scratch;
use super::tun::{Device, Offloads};
use super::vital::Vital;
use crate::core::frame::Offload;
use crate::core::iphttps::{CloseReason, LinkSink, SessionId};

/// Handshakes that compute between two turns of the event loop.
const HANDSHAKES_PER_TURN: usize = 4;
/// How often expired certificates and overdue timers are looked for.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// Certificates verified once more between two turns of the event loop.
const RECHECKS_PER_TURN: usize = 8;

/// From other threads.
#[derive(Debug)]
pub enum Command {
    Close(SessionId, CloseReason),
    CloseAll(CloseReason),
    Answer(SessionId, Answer),
    /// The configuration changed: close what it does not admit any more. With `trust`, other authorities are trusted now.
    Recheck {
        trust: bool,
    },
    /// A packet of the link for everybody here but one.
    Broadcast(SessionId, Arc<[u8]>),
    /// Somebody wants to know whether the event loop turns.
    Turned(std::sync::mpsc::SyncSender<()>),
    Stop,
}

/// A packet for a session of another worker.
#[derive(Debug)]
pub struct Foreign {
    pub session: SessionId,
    pub packet: Box<[u8]>,
    pub offload: Offload,
}

/// The descriptors of one worker.
#[derive(Debug)]
pub struct Descriptors {
    pub tunnel: OwnedFd,
    pub nat64: Option<OwnedFd>,
    pub listeners: Vec<OwnedFd>,
}

/// The receiving ends of a worker's queues.
#[derive(Debug)]
pub struct Inbox {
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub packets: mpsc::Receiver<Foreign>,
}

/// What a worker tells when it has started.
#[derive(Debug)]
pub struct Started {
    pub tunnel: Offloads,
    pub nat64: Option<Offloads>,
}

pub(super) struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    sessions: RefCell<HashMap<SessionId, Rc<Session>>>,
    /// Connections that are not up yet, in the order they came.
    handshakes: RefCell<std::collections::BTreeMap<SessionId, Rc<Session>>>,
    /// When certificates of sessions that are up expire, in seconds since the epoch: thousands of sessions are not to be
    /// looked at each second for the one that ends.
    expiries: RefCell<BTreeSet<(i64, SessionId)>>,
    handshake_gate: Semaphore,
    handshake_ended: Notify,
    /// How long it takes from a connection to its tunnel, lately.
    typical: Cell<Duration>,
    scratch: RefCell<Scratch>,
    runs: RefCell<Runs>,
    tunnel: Rc<Device>,
    tunnel_writer: RefCell<MergingWriter>,
    nat64: Option<Nat64Path>,
    stopping: Cell<bool>,
    /// Refused connections that take their last answer.
    lingering: Cell<usize>,
}

/// Body of a worker's thread. Sends one message on `ready` when it has started or failed to.
pub(super) fn run(
    index: usize,
    shared: Arc<Shared>,
    descriptors: Descriptors,
    inbox: Inbox,
    ready: &std::sync::mpsc::Sender<io::Result<Started>>,
) {
    let _vital = Vital("serves a share of the clients");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        // Nobody listens only when the creator died, and then nothing matters.
        Err(error) => return drop(ready.send(Err(error))),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        match Worker::new(index, shared, descriptors) {
            Ok((worker, listeners, started)) => {
                let _ = ready.send(Ok(started));
                worker.work(listeners, inbox).await;
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
}

impl Worker {
    fn new(
        index: usize,
        shared: Arc<Shared>,
        descriptors: Descriptors,
    ) -> io::Result<(Rc<Self>, Vec<tokio::net::TcpListener>, Started)> {
        let handle = &shared.workers[index];
        let tunnel = Rc::new(Device::new(descriptors.tunnel)?);
        let writer = HostWriter::new(tunnel.clone(), handle.tunnel.clone());
        let nat64 = match descriptors.nat64 {
            Some(fd) => Some(Nat64Path::new(Rc::new(Device::new(fd)?), &handle.nat64, shared.nat64())),
            None => None,
        };
        let listeners = descriptors.listeners.into_iter().map(listener::adopt).collect::<io::Result<Vec<_>>>()?;
        let started = Started { tunnel: tunnel.offloads(), nat64: nat64.as_ref().map(|path| path.device.offloads()) };
        let worker = Rc::new(Self {
            index,
            sessions: RefCell::default(),
            handshakes: RefCell::default(),
            expiries: RefCell::default(),
            handshake_gate: Semaphore::new(HANDSHAKES_PER_TURN),
            handshake_ended: Notify::new(),
            typical: Cell::default(),
            scratch: RefCell::default(),
            runs: RefCell::default(),
            tunnel,
            tunnel_writer: RefCell::new(MergingWriter::new(writer)),
            nat64,
            stopping: Cell::new(false),
            lingering: Cell::new(0),
            shared,
        });
        Ok((worker, listeners, started))
    }

    pub(super) fn handle(&self) -> &WorkerHandle {
        &self.shared.workers[self.index]
    }

    async fn work(self: Rc<Self>, listeners: Vec<tokio::net::TcpListener>, inbox: Inbox) {
        let Inbox { mut commands, packets } = inbox;
        let mut tasks = vec![
            tokio::task::spawn_local(self.clone().from_tunnel()),
            tokio::task::spawn_local(self.clone().from_other_workers(packets)),
            tokio::task::spawn_local(self.clone().keep_house()),
        ];
        if self.nat64.is_some() {
            tasks.push(tokio::task::spawn_local(self.clone().from_nat64()));
        }
        for listener in listeners {
            tasks.push(tokio::task::spawn_local(self.clone().listen(listener)));
        }
        while let Some(command) = commands.recv().await {
            if matches!(command, Command::Stop) {
                break;
            }
            self.obey(command);
        }
        self.stopping.set(true);
        for task in tasks {
            task.abort();
        }
        self.obey(Command::CloseAll(CloseReason::Shutdown));
        // Lets the sessions say goodbye; they are gone when the thread ends in any case.
        let all_gone = async {
            while !self.sessions.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), all_gone).await;
    }

    fn obey(self: &Rc<Self>, command: Command) {
        let find = |id: SessionId| self.sessions.borrow().get(&id).cloned();
        match command {
            Command::Close(id, reason) => {
                if let Some(session) = find(id) {
                    session.close(reason);
                }
            }
            Command::CloseAll(reason) => {
                for session in self.sessions.borrow().values() {
                    session.close(reason);
                }
            }
            Command::Answer(id, answer) => {
                if let Some(session) = find(id) {
                    session.answer(answer);
                }
            }
            Command::Recheck { trust } => {
                if let Some(path) = &self.nat64 {
                    path.use_shards(self.shared.nat64());
                }
                for session in self.sessions.borrow().values() {
                    self.close_if_revoked(session);
                }
                if trust {
                    tokio::task::spawn_local(self.clone().recheck_trust());
                }
            }
            Command::Broadcast(except, packet) => {
                self.broadcast_here(except, &packet);
                self.end_of_vector();
            }
            // Whoever asked may have given up.
            Command::Turned(reply) => drop(reply.try_send(())),
            Command::Stop => {}
        }
    }

    fn close_if_revoked(&self, session: &Session) -> bool {
        let revoked = session
            .info()
            .and_then(|info| info.identity.as_ref())
            .is_some_and(|identity| self.shared.is_revoked(identity));
        if revoked {
            session.close(CloseReason::Revoked);
        }
        revoked
    }

    /// Verifies every session's certificate once more. Some at a time: ten thousand signatures are a second of work, and
    /// packets do not wait that long.
    async fn recheck_trust(self: Rc<Self>) {
        let all: Vec<_> = self.sessions.borrow().keys().copied().collect();
        for some in all.chunks(RECHECKS_PER_TURN) {
            let live = self.shared.live();
            for id in some {
                let session = self.sessions.borrow().get(id).cloned();
                if let Some(session) = session {
                    self.recheck_one(&session, &live);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Closes a session that the configuration does not admit any more.
    fn recheck_one(&self, session: &Session, live: &Live) {
        if session.info().is_none_or(|info| info.identity.is_none()) || self.close_if_revoked(session) {
            return;
        }
        let Some(verifier) = &live.tls.verifier else { return };
        let trusted = session.transport.with_peer_certificates(|chain| {
            chain.split_first().is_some_and(|(own, others)| verifier.admit(own, others, UnixTime::now()).is_ok())
        });
        if !trusted {
            session.close(CloseReason::NotAdmitted);
        }
    }

    /// Closes sessions whose certificates have expired.
    fn expire(&self) {
        let epoch = seconds_since_epoch() as i64;
        loop {
            let first = self.expiries.borrow().first().copied().filter(|&(at, _)| at <= epoch);
            let Some(due) = first else { return };
            self.expiries.borrow_mut().remove(&due);
            if let Some(session) = self.sessions.borrow().get(&due.1) {
                session.close(CloseReason::NotAdmitted);
            }
        }
    }

    async fn keep_house(self: Rc<Self>) {
        let _vital = Vital("keeps the time of sessions");
        let mut ticks = tokio::time::interval(HOUSEKEEPING);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turn = 0u32;
        loop {
            ticks.tick().await;
            turn = turn.wrapping_add(1);
            let now = self.shared.clock.now();
            // The first worker does what is done once for all.
            if self.index == 0 && self.shared.link.next_timeout().is_some_and(|at| at <= now) {
                self.shared.link.handle_timeout(now, jitter(), &mut Sink(&self));
            }
            self.nat64_timers();
            self.end_of_vector();
            if turn.is_multiple_of(4) {
                self.expire();
                self.runs.borrow_mut().rest();
            }
        }
    }

    /// After a defect in the task of one connection: what it left half done in the buffers that all share must meet no
    /// other one. Packets that waited in them for the end of the vector are lost.
    fn begin_anew(&self) {
        self.scratch.take();
        self.runs.take();
    }

    /// Sends and writes everything that was collected.
    fn end_of_vector(&self) {
        self.flush_nat64();
        self.tunnel_writer.borrow_mut().flush();
        self.runs.borrow_mut().flush();
    }
}

/// What the link does to sessions, wherever they are.
pub(super) struct Sink<'a>(pub &'a Worker);

impl LinkSink for Sink<'_> {
    fn send(&mut self, session: SessionId, packet: &[u8]) {
        self.0.send_packet(session, packet, Offload::default());
    }

    fn broadcast_except(&mut self, session: SessionId, packet: &[u8]) {
        self.0.broadcast_here(session, packet);
        let shared: Arc<[u8]> = packet.into();
        for (index, worker) in self.0.shared.workers.iter().enumerate() {
            if index != self.0.index {
                worker.tell(Command::Broadcast(session, shared.clone()));
            }
        }
    }

    fn evict(&mut self, session: SessionId, reason: CloseReason) {
        self.0.shared.tell(session, Command::Close(session, reason));
    }

    fn learned(&mut self, session: SessionId, address: std::net::Ipv6Addr) {
        self.0.shared.learned(session, address);
    }
}
