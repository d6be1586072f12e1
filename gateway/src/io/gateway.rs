//! A Remote Access server's packet path: what workers share, and the handle that the control side holds.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::Ipv6Addr;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::StartError;
use super::clock::Clock;
use super::config::{Authentication, IpHttps, Refused, ServerConfig};
use super::dns64;
use super::dns64::inspect;
use super::events::Events;
use super::nat64::Shards;
use super::outlet::Queues;
use super::stats::{HostCounters, WorkerCounters};
use super::tls::identity::RevocationList;
use super::tls::setup::{self, ServerSetup};
use super::worker::info::SessionInfo;
use super::worker::session::Answer;
use super::worker::{self, Command, Descriptors, Foreign, Inbox, Started};
use crate::core::frame::Offload;
use crate::core::impossible;
use crate::core::iphttps::{
    Authentication as CoreAuthentication, CloseReason, Identity, Link, LinkConfig, LinkSink, Route, SessionConfig,
    SessionId,
};

/// Packets that may wait at a worker for sessions that others read packets for.
const HANDOVER_PACKETS: usize = 1024;
/// Memory for the packets that wait for all sessions together.
const QUEUES_BYTES: usize = 256 * 1024 * 1024;

/// A configuration with everything derived from it; replaced as a whole.
#[derive(Debug)]
pub struct Live {
    pub config: ServerConfig,
    pub tls: ServerSetup,
    pub session: SessionConfig,
}

#[derive(Debug)]
pub struct WorkerHandle {
    commands: mpsc::UnboundedSender<Command>,
    pub packets: mpsc::Sender<Foreign>,
    pub counters: Arc<WorkerCounters>,
    pub tunnel: Arc<HostCounters>,
    pub nat64: Arc<HostCounters>,
}

impl WorkerHandle {
    pub fn tell(&self, command: Command) {
        // Fails only while stopping, when there is nothing left to tell.
        let _ = self.commands.send(command);
    }
}

/// What all threads of one gateway share; read-mostly.
#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub events: Events,
    pub link: Link,
    pub queues: Queues,
    pub workers: Vec<WorkerHandle>,
    pub registry: Mutex<BTreeMap<u64, Arc<SessionInfo>>>,
    nat64: RwLock<Option<Arc<Shards>>>,
    live: RwLock<Arc<Live>>,
    revoked: Arc<RwLock<RevocationList>>,
    next_session: AtomicU64,
    next_request: AtomicU64,
    /// Requests that were handed up, and the sessions that wait for the answers.
    requests: Mutex<HashMap<u64, SessionId>>,
}

impl Shared {
    pub fn live(&self) -> Arc<Live> {
        self.live.read().clone()
    }

    pub fn nat64(&self) -> Option<Arc<Shards>> {
        self.nat64.read().clone()
    }

    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.revoked.read().contains(identity)
    }

    /// A number from which `worker_of` finds the worker.
    pub fn new_session(&self, worker: usize) -> SessionId {
        let count = self.workers.len() as u64;
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed) * count + worker as u64)
    }

    pub fn worker_of(&self, session: SessionId) -> usize {
        (session.0 % self.workers.len() as u64) as usize
    }

    pub fn tell(&self, session: SessionId, command: Command) {
        self.workers[self.worker_of(session)].tell(command);
    }

    /// Hands an HTTP request up; false when too many wait already.
    pub fn hand_up(&self, session: u64, max_pending: usize, mut event: Value) -> bool {
        let mut requests = self.requests.lock();
        if requests.len() >= max_pending {
            return false;
        }
        let number = self.next_request.fetch_add(1, Ordering::Relaxed);
        requests.insert(number, SessionId(session));
        event["request"] = json!(number);
        self.events.push("request", event);
        true
    }

    pub fn forget_requests(&self, session: SessionId) {
        self.requests.lock().retain(|_, waiting| *waiting != session);
    }

    /// Connections there are, in whatever state.
    fn connections(&self) -> u64 {
        let sum =
            |count: fn(&WorkerCounters) -> u64| self.workers.iter().map(|worker| count(&worker.counters)).sum::<u64>();
        // In this order a connection that ends meanwhile is counted rather than subtracted from nothing.
        let ended = sum(|counters| counters.connections_ended.get());
        sum(|counters| counters.connections_begun.get()).saturating_sub(ended)
    }

    pub fn learned(&self, session: SessionId, address: Ipv6Addr) {
        #[derive(Serialize)]
        struct Address {
            session: u64,
            address: Ipv6Addr,
        }
        self.events.push("session_address", Address { session: session.0, address });
    }
}

/// What the link does to sessions on behalf of the control side.
struct ControlSink<'a>(&'a Shared);

impl LinkSink for ControlSink<'_> {
    fn send(&mut self, session: SessionId, packet: &[u8]) {
        let worker = &self.0.workers[self.0.worker_of(session)];
        // A full queue drops it; the link repeats what matters.
        let _ = worker.packets.try_send(Foreign { session, packet: packet.into(), offload: Offload::default() });
    }

    fn broadcast_except(&mut self, session: SessionId, packet: &[u8]) {
        let packet: Arc<[u8]> = packet.into();
        for worker in &self.0.workers {
            worker.tell(Command::Broadcast(session, packet.clone()));
        }
    }

    fn evict(&mut self, session: SessionId, reason: CloseReason) {
        self.0.tell(session, Command::Close(session, reason));
    }

    fn learned(&mut self, session: SessionId, address: Ipv6Addr) {
        self.0.learned(session, address);
    }
}

fn core_authentication(authentication: Authentication) -> CoreAuthentication {
    match authentication {
        Authentication::Certificates => CoreAuthentication::Certificates,
        Authentication::None => CoreAuthentication::None,
    }
}

fn link_config(config: &IpHttps) -> LinkConfig {
    LinkConfig {
        authentication: core_authentication(config.authentication),
        link_local: config.link_local,
        addresses: config.addresses.clone(),
        prefix: config.prefix.address,
        routes: config.routes.iter().map(|route| Route { prefix: route.address, length: route.len }).collect(),
        route_lifetime: config.route_lifetime,
        router_lifetime: config.router_lifetime,
        advertise_interval: Duration::from_secs(config.advertise_interval.into()),
        max_sessions: config.max_sessions,
        max_addresses_per_session: config.max_addresses_per_session,
        idle_probe: Duration::from_secs_f64(config.idle_probe),
    }
}

fn prepare(config: ServerConfig, revoked: &Arc<RwLock<RevocationList>>) -> Result<Live, Refused> {
    let tls = setup::server(&config.tls, config.iphttps.authentication, revoked)?;
    let session = SessionConfig {
        authentication: core_authentication(config.iphttps.authentication),
        handshake_timeout: Duration::from_secs_f64(config.iphttps.handshake_timeout),
        request_timeout: Duration::from_secs_f64(config.iphttps.request_timeout),
        answer_timeout: Duration::from_secs_f64(config.http.timeout),
        paths: config.http.paths.clone(),
        max_body: config.http.max_body,
        segments: config.iphttps.segments,
    };
    Ok(Live { config, tls, session })
}

/// The descriptors a gateway takes over.
#[derive(Debug)]
pub struct GatewayDescriptors {
    /// Queues of the tunnel TUN, one per worker.
    pub tunnel: Vec<OwnedFd>,
    /// Queues of the NAT64 TUN, one per worker or none.
    pub nat64: Vec<OwnedFd>,
    /// Listening sockets; the first goes to the first worker, and so on around.
    pub listeners: Vec<OwnedFd>,
    pub dns_udp: Vec<OwnedFd>,
    pub dns_tcp: Vec<OwnedFd>,
}

/// Handle of a running gateway; closes it when dropped.
pub struct Gateway {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    started: Vec<Started>,
    dns64: dns64::Switch,
    has_nat64: bool,
}

impl Gateway {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the configuration is malformed or a descriptor is not what it should be.
    pub fn start(config: &str, descriptors: GatewayDescriptors) -> Result<Self, StartError> {
        let config = ServerConfig::parse(config)?;
        let count = config.workers;
        let expect = |name: &str, good: bool, text: &str| {
            if good { Ok(()) } else { Err(Refused(format!("{name}: {text} ({count} workers)"))) }
        };
        expect("tunnel_fds", descriptors.tunnel.len() == count, "one queue for each worker")?;
        let nat64 = descriptors.nat64.len();
        expect("nat64_fds", nat64 == count || nat64 == 0, "one queue for each worker, or none")?;
        expect("listener_fds", descriptors.listeners.len() >= count, "at least one listener for each worker")?;
        expect("nat64_fds", nat64 == count || config.nat64.is_none(), "nat64 is configured without queues")?;
        let clock = Clock::start();
        let dns64_config = config.dns64.clone();
        let link_config = link_config(&config.iphttps);
        let revoked = Arc::new(RwLock::new(RevocationList::new(&config.revoked)));
        let shards = config.nat64.as_ref().map(|settings| Shards::new(settings, count)).transpose()?;
        let live = prepare(config, &revoked)?;
        let link = Link::new(link_config, clock.now()).map_err(|error| Refused(format!("iphttps: {error}")))?;
        let mut inboxes = Vec::new();
        let workers = (0..count).map(|_| {
            let (commands, command_inbox) = mpsc::unbounded_channel();
            let (packets, packet_inbox) = mpsc::channel(HANDOVER_PACKETS);
            inboxes.push(Inbox { commands: command_inbox, packets: packet_inbox });
            WorkerHandle { commands, packets, counters: Arc::default(), tunnel: Arc::default(), nat64: Arc::default() }
        });
        let shared = Arc::new(Shared {
            clock,
            events: Events::default(),
            link,
            queues: Queues::new(QUEUES_BYTES),
            workers: workers.collect(),
            registry: Mutex::default(),
            nat64: RwLock::new(shards.map(Arc::new)),
            live: RwLock::new(Arc::new(live)),
            revoked,
            next_session: AtomicU64::new(1),
            next_request: AtomicU64::new(1),
            requests: Mutex::default(),
        });
        let GatewayDescriptors { tunnel, nat64, listeners, dns_udp, dns_tcp } = descriptors;
        let dns64 = dns64::Switch::new(dns_udp, dns_tcp);
        dns64.configure(dns64_config)?;
        let has_nat64 = !nat64.is_empty();
        let mut gateway = Self { shared, threads: Mutex::default(), started: Vec::new(), dns64, has_nat64 };
        gateway.spawn(tunnel, nat64, listeners, inboxes)?;
        Ok(gateway)
    }

    fn spawn(
        &mut self,
        tunnel: Vec<OwnedFd>,
        nat64: Vec<OwnedFd>,
        all_listeners: Vec<OwnedFd>,
        inboxes: Vec<Inbox>,
    ) -> io::Result<()> {
        let count = inboxes.len();
        let mut listeners: Vec<Vec<OwnedFd>> = (0..count).map(|_| Vec::new()).collect();
        for (index, fd) in all_listeners.into_iter().enumerate() {
            listeners[index % count].push(fd);
        }
        let mut nat64 = nat64.into_iter();
        let each = tunnel.into_iter().zip(listeners).zip(inboxes).enumerate();
        for (index, ((tunnel, listeners), inbox)) in each {
            let descriptors = Descriptors { tunnel, nat64: nat64.next(), listeners };
            let (ready, started) = std::sync::mpsc::channel();
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("portico-worker{index}"))
                .spawn(move || worker::run(index, shared, descriptors, inbox, &ready))?;
            self.threads.get_mut().push(thread);
            // The thread sends exactly one message unless it died.
            let started = started.recv().unwrap_or_else(|_| Err(io::Error::other("a worker's thread ended")))?;
            self.started.push(started);
        }
        Ok(())
    }

    /// Takes a new configuration as a whole, or refuses it and keeps the old one.
    pub fn configure(&self, text: &str) -> Result<(), Refused> {
        let shared = &self.shared;
        let config = ServerConfig::parse(text)?;
        if config.workers != shared.workers.len() {
            return Err(Refused(format!(
                "workers: {} run, and another number needs a restart of the gateway with a queue and a listener for each",
                shared.workers.len()
            )));
        }
        let dns64_config = config.dns64.clone();
        if dns64_config.is_some() && !self.dns64.has_sockets() {
            return Err(Refused("dns64: needs a restart of the gateway with sockets for it".to_owned()));
        }
        let nat64_config = config.nat64.clone();
        if nat64_config.is_some() && !self.has_nat64 {
            return Err(Refused("nat64: needs a restart of the gateway with queues for it".to_owned()));
        }
        // Everything that may be refused comes before the first thing that is done.
        let list = RevocationList::new(&config.revoked);
        let link = link_config(&config.iphttps);
        let before = shared.nat64();
        if let Some(settings) = &nat64_config {
            Shards::check(settings)?;
        }
        let shards = match (&nat64_config, before) {
            (None, _) => None,
            (Some(_), Some(shards)) => Some(shards),
            (Some(settings), None) => Some(Arc::new(Shards::new(settings, shared.workers.len())?)),
        };
        let live = prepare(config, &shared.revoked)?;
        link.check().map_err(|error| Refused(format!("iphttps: {error}")))?;
        self.dns64.configure(dns64_config).map_err(|error| Refused(format!("dns64: {error}")))?;
        if let (Some(settings), Some(shards)) = (&nat64_config, &shards) {
            let lost = shards.reconfigure(shared.clock.now(), settings)?;
            if lost > 0 {
                let text = format!("{lost} bindings have no place in the new pool and were removed");
                shared.events.warn("NAT64_POOL", &text);
            }
        }
        let trust = {
            let before = shared.live();
            before.config.tls.client_ca != live.config.tls.client_ca
                || before.config.iphttps.authentication != live.config.iphttps.authentication
        };
        *shared.revoked.write() = list;
        *shared.nat64.write() = shards;
        *shared.live.write() = Arc::new(live);
        // After what newcomers are met with: whoever is closed here dials again at once.
        let configured = shared.link.configure(link, shared.clock.now(), &mut ControlSink(shared));
        configured.map_err(|error| Refused(format!("iphttps: {error}")))?;
        for worker in &shared.workers {
            worker.tell(Command::Recheck { trust });
        }
        Ok(())
    }

    pub fn next_events(&self, timeout: Duration) -> Vec<String> {
        let mut events = self.shared.events.next(timeout);
        if let Some(shards) = self.shared.nat64() {
            shards.accounting_events(self.shared.clock.now(), &mut events);
        }
        events
    }

    /// A page of the sessions of NAT64, as a JSON object.
    ///
    /// # Errors
    /// When NAT64 is off or the question cannot be read.
    pub fn nat64_sessions(&self, question: &str) -> Result<String, Refused> {
        Ok(self.translator()?.list_sessions(self.shared.clock.now(), question)?.to_string())
    }

    /// A page of the bindings of NAT64, as a JSON object.
    ///
    /// # Errors
    /// When NAT64 is off or the question cannot be read.
    pub fn nat64_bindings(&self, question: &str) -> Result<String, Refused> {
        Ok(self.translator()?.list_bindings(question)?.to_string())
    }

    /// Replaces the clients that reach everything through NAT64, as a JSON object.
    ///
    /// # Errors
    /// When NAT64 is off or the question cannot be read.
    pub fn nat64_open(&self, question: &str) -> Result<String, Refused> {
        Ok(self.translator()?.open_for(self.shared.clock.now(), question)?.to_string())
    }

    fn translator(&self) -> Result<Arc<Shards>, Refused> {
        self.shared.nat64().ok_or_else(|| Refused("nat64: it is switched off".to_owned()))
    }

    /// Answers a request that was handed up; false when its connection is gone.
    pub fn answer(&self, request: u64, status: u16, content_type: String, body: Vec<u8>) -> bool {
        let Some(session) = self.shared.requests.lock().remove(&request) else { return false };
        self.shared.tell(session, Command::Answer(session, Answer { status, content_type, body }));
        true
    }

    /// A JSON array of at most `limit` sessions, in the order of their numbers, from the first one behind `after`.
    pub fn sessions(&self, after: u64, limit: usize) -> String {
        let page: Vec<_> = {
            let registry = self.shared.registry.lock();
            registry
                .range((Bound::Excluded(after), Bound::Unbounded))
                .take(limit)
                .map(|(_, info)| info.clone())
                .collect()
        };
        let json = |info: &Arc<SessionInfo>| info.json(&self.shared.link.addresses(SessionId(info.id)));
        Value::Array(page.iter().map(json).collect()).to_string()
    }

    /// Closes sessions by number and returns how many there were.
    pub fn disconnect(&self, sessions: &[u64]) -> usize {
        let registry = self.shared.registry.lock();
        let known = sessions.iter().filter(|number| registry.contains_key(number));
        known.map(|&number| SessionId(number)).fold(0, |count, id| {
            self.shared.tell(id, Command::Close(id, CloseReason::Disconnected));
            count + 1
        })
    }

    /// A JSON object of counters.
    pub fn stats(&self) -> String {
        let shared = &self.shared;
        let workers = &shared.workers;
        let offloads = self.started.first();
        let link = shared.link.counters();
        let tables = shared.link.table_sizes();
        let drops: serde_json::Map<String, Value> = crate::core::iphttps::DropReason::ALL
            .iter()
            .map(|&reason| (reason.as_str().to_owned(), json!(link.dropped(reason))))
            .collect();
        let happened: serde_json::Map<String, Value> = crate::core::iphttps::LinkEvent::ALL
            .iter()
            .map(|&event| (event.as_str().to_owned(), json!(link.happened(event))))
            .collect();
        json!({
            "sessions": shared.link.sessions(),
            "workers": workers.len(),
            "gateway": WorkerCounters::sums(workers.iter().map(|worker| &*worker.counters)),
            "tunnel": HostCounters::sums(workers.iter().map(|worker| &*worker.tunnel)),
            "nat64_device": HostCounters::sums(workers.iter().map(|worker| &*worker.nat64)),
            "queues": shared.queues.stats(),
            "link": {"drops": drops, "events": happened},
            "offloads": {
                "tunnel": offloads.map(|started| started.tunnel.names()),
                "nat64": offloads.and_then(|started| started.nat64).map(super::tun::Offloads::names),
            },
            "nat64": shared.nat64().map(|shards| shards.stats()),
            "dns64": self.dns64.stats(),
            "events_dropped": shared.events.dropped(),
            "requests_pending": shared.requests.lock().len(),
            "tables": {
                "registry": shared.registry.lock().len(),
                "sessions": tables.sessions,
                "addresses": tables.addresses,
                "probes": tables.probes,
                "connections": shared.connections(),
                "events_waiting": shared.events.waiting(),
            },
            "impossible": impossible::counts().map(|(name, count)| (name.to_owned(), json!(count)))
                .collect::<serde_json::Map<String, Value>>(),
        })
        .to_string()
    }

    /// Serves DNS64 on other sockets from now on, or on none.
    ///
    /// # Errors
    /// A descriptor of the wrong kind, or no thread to be had.
    pub fn replace_dns_sockets(&self, udp: Vec<OwnedFd>, tcp: Vec<OwnedFd>) -> io::Result<()> {
        self.dns64.replace(udp, tcp)
    }

    /// Forgets answers of DNS64; `{"name": null | text, "tree": bool}` to `{"removed": n}`.
    pub fn dns64_flush(&self, request: &str) -> Result<String, Refused> {
        let what = request.parse().map_err(|error: inspect::Refused| Refused(error.0))?;
        let removed = self.dns64.flush(what).map_err(|error| Refused(error.to_string()))?;
        Ok(json!({"removed": removed}).to_string())
    }

    /// Asks DNS64 as a client would; see `portico/_gateway.pyi` for both documents.
    pub fn dns64_query(&self, request: &str) -> Result<String, Refused> {
        let query = request.parse().map_err(|error: inspect::Refused| Refused(error.0))?;
        Ok(self.dns64.query(query).map_err(|error| Refused(error.to_string()))?.to_string())
    }

    /// Waits until every worker has had a turn since; false when one has not in time.
    pub fn turned(&self, timeout: Duration) -> bool {
        let workers = &self.shared.workers;
        let (reply, answers) = std::sync::mpsc::sync_channel(workers.len());
        for worker in workers {
            worker.tell(Command::Turned(reply.clone()));
        }
        drop(reply);
        let end = Instant::now() + timeout;
        workers.iter().all(|_| answers.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok())
    }

    /// Stops all workers and closes every descriptor.
    pub fn close(&self) {
        self.dns64.close();
        for worker in &self.shared.workers {
            worker.tell(Command::Stop);
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // One that panicked has ended the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.close();
    }
}
