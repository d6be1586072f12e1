//! DNS64's sockets: one thread with its own runtime over inherited UDP and TCP sockets, around `core::dns64`.

mod batch;
mod clients;
pub mod inspect;
mod lines;
mod servers;
mod switch;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use socket2::{Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, LocalSet};

use super::vital::Vital;
use crate::core::dns64::config::Config;
use crate::core::dns64::engine::{Engine, Entropy};
use crate::core::dns64::stats::Stats;
use crate::core::dns64::{Action, Client, Transport, Way};
use crate::core::time::Now;

pub use inspect::Flush;
pub use switch::Switch;

/// How long a caller waits for the thread, which never waits for anything itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// Administrators' queries waiting at once.
const MAX_LOCAL: usize = 64;
/// Clients that wait to be accepted.
const BACKLOG: i32 = 256;

/// The engine's counters and those of the sockets.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShellStats {
    #[serde(flatten)]
    pub engine: Stats,
    /// TCP connections of clients now, and since the start.
    pub tcp_connections: u64,
    pub tcp_accepted: u64,
    /// Closed at once: too many connections, of one client or of all.
    pub tcp_refused: u64,
    /// Closed because nothing, or too little, came in time.
    pub tcp_idle: u64,
    /// Closed because an answer was not taken in time.
    pub tcp_slow: u64,
    /// Closed because the client's connections had too many bytes of answers that were not taken.
    pub tcp_crowded: u64,
    /// Closed because what came was no query.
    pub tcp_garbage: u64,
    /// Closed, being idle, to make room for another client's.
    pub tcp_evicted: u64,
    /// Answers that the socket did not take, or whose connection had gone.
    pub replies_dropped: u64,
    pub receive_errors: u64,
    /// TCP connections to servers now, made since the start, and questions that found one open.
    pub upstream_connections_open: u64,
    pub upstream_connections: u64,
    pub upstream_connections_reused: u64,
    /// Messages on them that answer nothing that was asked there.
    pub upstream_unasked: u64,
    /// Ended in the middle of a message, or ended here, because what came was no DNS or too many answers to nothing.
    pub upstream_connections_broken: u64,
}

/// Where the answer to an administrator's query goes; `None` when there are too many.
type LocalReply = blocking::SyncSender<Option<Value>>;

enum Command {
    Configure(Box<Config>, blocking::SyncSender<()>),
    Stats(blocking::SyncSender<ShellStats>),
    Flush(Flush, blocking::SyncSender<usize>),
    Query(inspect::Query, LocalReply),
    Close,
}

/// A running DNS64. Dropping it closes it.
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    /// Takes another configuration; queries on their way are answered under it.
    ///
    /// # Errors
    /// `BrokenPipe` after [`Handle::close`].
    pub fn configure(&self, config: Config) -> io::Result<()> {
        self.call(|reply| Command::Configure(Box::new(config), reply))
    }

    /// # Errors
    /// `BrokenPipe` after [`Handle::close`].
    pub fn stats(&self) -> io::Result<ShellStats> {
        self.call(Command::Stats)
    }

    /// Forgets cached answers and returns how many there were.
    ///
    /// # Errors
    /// `BrokenPipe` after [`Handle::close`].
    pub fn flush(&self, what: Flush) -> io::Result<usize> {
        self.call(|reply| Command::Flush(what, reply))
    }

    /// Asks the engine as a client would, without the network and its limits: the answer and how it came about.
    ///
    /// # Errors
    /// `TimedOut` without an answer in the query's time, `WouldBlock` while too many such queries wait, `BrokenPipe` after
    /// [`Handle::close`].
    pub fn query(&self, query: inspect::Query) -> io::Result<Value> {
        let (sender, receiver) = blocking::sync_channel(1);
        self.commands.send(Command::Query(query, sender)).map_err(|_| gone())?;
        match receiver.recv_timeout(query.timeout) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{MAX_LOCAL} queries of administrators wait already; try again when they have ended"),
            )),
            Err(blocking::RecvTimeoutError::Timeout) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer in {} s; look at the servers in the counters", query.timeout.as_secs_f64()),
            )),
            Err(blocking::RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// Closes all sockets and ends the thread; queries on their way stay unanswered.
    pub fn close(&self) {
        // The thread may have ended already; then there is nothing to tell it.
        let _ = self.commands.send(Command::Close);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn call<T>(&self, command: impl FnOnce(blocking::SyncSender<T>) -> Command) -> io::Result<T> {
        let (sender, receiver) = blocking::sync_channel(1);
        self.commands.send(command(sender)).map_err(|_| gone())?;
        receiver.recv_timeout(PATIENCE).map_err(|_| gone())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "DNS64 has been closed; start it again")
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Starts DNS64 over bound UDP sockets and bound or listening TCP sockets, which it owns from here on.
///
/// # Errors
/// A descriptor of the wrong kind (the message names it), or no thread or runtime to be had.
pub fn spawn(config: Config, udp_fds: Vec<OwnedFd>, tcp_fds: Vec<OwnedFd>) -> io::Result<Handle> {
    let udp = udp_fds.into_iter().map(|fd| socket(fd, Type::DGRAM)).collect::<io::Result<Vec<_>>>()?;
    let tcp = tcp_fds.into_iter().map(|fd| socket(fd, Type::STREAM)).collect::<io::Result<Vec<_>>>()?;
    let (commands, receiver) = mpsc::unbounded_channel();
    let (started, ready) = blocking::sync_channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("dns64".into()).spawn(move || {
        let _vital = Vital("serves DNS64");
        LocalSet::new().block_on(&runtime, async move {
            match Shell::new(config, udp, tcp) {
                Ok((shell, listeners)) => {
                    // The caller waits for this word, so it is there to hear it.
                    let _ = started.send(Ok(()));
                    shell.run(listeners, receiver).await;
                }
                Err(error) => _ = started.send(Err(error)),
            }
        });
    })?;
    let handle = Handle { commands, thread: Mutex::new(Some(thread)) };
    match ready.recv() {
        Ok(result) => result.map(|()| handle),
        Err(_) => Err(io::Error::other("the DNS64 thread ended before it began; see the log for its panic")),
    }
}

fn socket(fd: OwnedFd, kind: Type) -> io::Result<Socket> {
    let number = fd.as_raw_fd();
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidInput, format!("DNS64 descriptor {number}: {why}"));
    let socket = Socket::from(fd);
    let found = socket.r#type().map_err(|error| wrong(error.to_string()))?;
    if found != kind {
        let name = if kind == Type::DGRAM { "UDP" } else { "TCP" };
        return Err(wrong(format!("not a {name} socket")));
    }
    // The agent's listen already, and a confined process may not begin to.
    if kind == Type::STREAM && !socket.is_listener()? {
        socket.listen(BACKLOG).map_err(|error| wrong(format!("cannot listen: {error}")))?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Unpredictable numbers, drawn from the cryptographic generator in blocks.
fn entropy() -> Entropy {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Guessable ids would invite forged answers; without a generator there is no service.
    let refill = move |block: &mut [u8]| provider.secure_random.fill(block).expect("the random generator works");
    let mut block = [0; 512];
    // A thread's first number takes the generator a good part of a second: not while a client waits.
    refill(&mut block);
    let mut used = 0;
    Box::new(move || {
        if used == block.len() {
            refill(&mut block);
            used = 0;
        }
        used += 8;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[used - 8..used]);
        u64::from_ne_bytes(bytes)
    })
}

/// How a server is being asked.
enum Asked {
    Datagram(AbortHandle),
    Line(Rc<lines::Line>, u16),
}

/// Everything the thread's tasks share.
struct Shell {
    engine: RefCell<Engine>,
    origin: Instant,
    udp: Vec<UdpSocket>,
    connections: clients::Connections,
    /// How servers are being asked, by attempt.
    attempts: RefCell<HashMap<u64, Asked>>,
    lines: lines::Lines,
    /// Where datagrams from servers are read.
    datagram: RefCell<[u8; servers::DATAGRAM]>,
    /// Administrators who wait for answers, and since when.
    local: RefCell<HashMap<u64, (Now, LocalReply)>>,
    last_ticket: Cell<u64>,
    /// The moment the timer task sleeps towards, and how to wake it for an earlier one.
    armed: Cell<Option<Now>>,
    rearm: Notify,
    counters: RefCell<ShellStats>,
}

impl Shell {
    fn new(config: Config, udp: Vec<Socket>, tcp: Vec<Socket>) -> io::Result<(Rc<Self>, Vec<TcpListener>)> {
        udp.iter().for_each(servers::ignore_path_mtu);
        let udp = udp.into_iter().map(|socket| UdpSocket::from_std(socket.into())).collect::<io::Result<_>>()?;
        let tcp = tcp.into_iter().map(|socket| TcpListener::from_std(socket.into())).collect::<io::Result<_>>()?;
        let shell = Self {
            engine: RefCell::new(Engine::new(config, entropy())),
            origin: Instant::now(),
            udp,
            connections: clients::Connections::default(),
            attempts: RefCell::default(),
            lines: lines::Lines::default(),
            datagram: RefCell::new([0; servers::DATAGRAM]),
            local: RefCell::default(),
            last_ticket: Cell::new(0),
            armed: Cell::new(None),
            rearm: Notify::new(),
            counters: RefCell::default(),
        };
        Ok((Rc::new(shell), tcp))
    }

    async fn run(self: Rc<Self>, listeners: Vec<TcpListener>, mut commands: mpsc::UnboundedReceiver<Command>) {
        for socket in 0..self.udp.len() {
            tokio::task::spawn_local(clients::serve_udp(Rc::clone(&self), socket));
        }
        for listener in listeners {
            tokio::task::spawn_local(clients::accept(Rc::clone(&self), listener));
        }
        tokio::task::spawn_local(Rc::clone(&self).keep_time());
        // Callers that stopped waiting do not hear the answer; the work is done all the same.
        while let Some(command) = commands.recv().await {
            match command {
                Command::Configure(config, reply) => {
                    self.engine.borrow_mut().configure(self.now(), *config);
                    self.pump();
                    let _ = reply.send(());
                }
                Command::Stats(reply) => {
                    let mut stats = self.counters.borrow().clone();
                    stats.engine = self.engine.borrow().stats(self.now());
                    stats.tcp_connections = self.connections.len() as u64;
                    stats.upstream_connections_open = self.lines.len() as u64;
                    let _ = reply.send(stats);
                }
                Command::Flush(Flush { name, tree }, reply) => {
                    _ = reply.send(self.engine.borrow_mut().flush(name.as_ref(), tree));
                }
                Command::Query(query, reply) => self.local_query(query, reply),
                Command::Close => return,
            }
        }
    }

    fn now(&self) -> Now {
        Now(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Takes a query that did not come by UDP.
    fn query(&self, client: Client, bytes: &[u8]) {
        let mut answer = Vec::new();
        if self.engine.borrow_mut().handle_query(self.now(), client, bytes, &mut answer) {
            self.reply(client, answer);
        }
    }

    fn local_query(self: &Rc<Self>, query: inspect::Query, reply: LocalReply) {
        if self.local.borrow().len() >= MAX_LOCAL {
            _ = reply.send(None);
            return;
        }
        let ticket = self.last_ticket.get() + 1;
        self.last_ticket.set(ticket);
        self.local.borrow_mut().insert(ticket, (self.now(), reply));
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        self.query(Client { address, transport: Transport::Local { ticket } }, &query.bytes());
        self.pump();
    }

    fn response(self: &Rc<Self>, attempt: u64, server: SocketAddr, bytes: &[u8]) {
        self.engine.borrow_mut().handle_response(self.now(), attempt, server, bytes);
        self.pump();
    }

    fn unreachable(self: &Rc<Self>, attempt: u64) {
        self.engine.borrow_mut().handle_unreachable(self.now(), attempt);
        self.pump();
    }

    /// Does what the engine asks for.
    fn pump(self: &Rc<Self>) {
        loop {
            let action = self.engine.borrow_mut().poll_action();
            match action {
                Some(Action::SendUpstream { attempt, server, way, bytes }) => self.send(attempt, server, way, bytes),
                Some(Action::CancelUpstream { attempt }) => match self.attempts.borrow_mut().remove(&attempt) {
                    Some(Asked::Datagram(task)) => task.abort(),
                    Some(Asked::Line(line, id)) => line.forget(id, attempt),
                    None => {}
                },
                Some(Action::Reply { client, bytes }) => self.reply(client, bytes),
                Some(Action::Report { ticket, bytes, report }) => {
                    if let Some((since, reply)) = self.local.borrow_mut().remove(&ticket) {
                        let elapsed = self.now().since(since);
                        // Whoever stopped waiting does not hear it.
                        _ = reply.send(Some(inspect::describe(&bytes, &report, elapsed)));
                    }
                }
                None => break,
            }
        }
        let next = self.engine.borrow().next_timeout();
        if next.is_some() && (self.armed.get().is_none() || next < self.armed.get()) {
            self.rearm.notify_one();
        }
    }

    fn send(self: &Rc<Self>, attempt: u64, server: SocketAddr, way: Way, bytes: Vec<u8>) {
        let asked = if way == Way::Udp {
            let task = tokio::task::spawn_local(servers::exchange(Rc::clone(self), attempt, server, bytes));
            Some(Asked::Datagram(task.abort_handle()))
        } else {
            let new = way == Way::NewTcp;
            lines::Lines::ask(self, server, attempt, bytes, new).map(|(line, id)| Asked::Line(line, id))
        };
        match asked {
            Some(asked) => _ = self.attempts.borrow_mut().insert(attempt, asked),
            None => self.engine.borrow_mut().handle_unreachable(self.now(), attempt),
        }
    }

    /// A question goes on by another connection.
    fn moved(&self, attempt: u64, line: Rc<lines::Line>, id: u16) {
        self.attempts.borrow_mut().insert(attempt, Asked::Line(line, id));
    }

    fn reply(&self, client: Client, bytes: Vec<u8>) {
        let sent = match client.transport {
            // A full socket buffer means the client's queries come faster than its line takes answers; it will ask again.
            Transport::Udp { socket } => self.udp[socket].try_send_to(&bytes, client.address).is_ok(),
            Transport::Tcp { connection } => {
                let delivery = self.connections.reply(connection, bytes);
                self.counters.borrow_mut().tcp_crowded += u64::from(delivery == clients::Delivery::Crowded);
                delivery == clients::Delivery::Taken
            }
            // Answered by reports, or not at all.
            Transport::Local { .. } | Transport::Nobody => true,
        };
        if !sent {
            self.counters.borrow_mut().replies_dropped += 1;
        }
    }

    async fn keep_time(self: Rc<Self>) {
        let _vital = Vital("keeps the time of DNS64");
        loop {
            let next = self.engine.borrow().next_timeout();
            self.armed.set(next);
            match next {
                None => self.rearm.notified().await,
                Some(at) => {
                    let at = tokio::time::Instant::from_std(self.origin + Duration::from_micros(at.0));
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {
                            self.engine.borrow_mut().handle_timeout(self.now());
                            self.pump();
                        }
                        () = self.rearm.notified() => {}
                    }
                }
            }
        }
    }
}
