//! The clients' side: datagrams, and connections with several queries each (RFC 7766).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;

use super::Shell;
use super::batch::{BATCH, Batch, MAX_QUERY};
use crate::core::dns64::message::HEADER;
use crate::core::dns64::{Client, Transport};
use crate::io::vital::Vital;

/// Batches taken in a row before other tasks have their turn.
const ROUNDS: usize = 4;
/// Connections of all clients, and of one address.
const MAX_CONNECTIONS: usize = 1024;
const MAX_CONNECTIONS_PER_CLIENT: usize = 32;
/// Queries of one connection waiting for their answers; the next is read when one of them has its answer.
const MAX_PIPELINED: u32 = 64;
/// Bytes of answers that one connection has not taken yet, above which no query is read from it, and those of all connections
/// of one client and of all clients, above which the connection that would get the next one is closed.
const MAX_UNSENT: usize = 128 << 10;
const MAX_UNSENT_PER_CLIENT: usize = 4 << 20;
const MAX_UNSENT_TOTAL: usize = 32 << 20;
/// How long a connection may be silent, take to send one query, or leave an answer unread.
const IDLE: Duration = Duration::from_secs(10);
/// How long a connection must have been silent to give way to another client's.
const EVICTABLE: Duration = Duration::from_secs(1);
/// The pause after an error that may persist, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// All connections of clients.
#[derive(Default)]
pub(super) struct Connections {
    open: RefCell<HashMap<u64, Rc<Connection>>>,
    by_client: RefCell<HashMap<IpAddr, Rc<Share>>>,
    last: Cell<u64>,
    /// Bytes of answers not sent yet.
    unsent: Cell<usize>,
}

/// What one client's connections take.
#[derive(Default)]
struct Share {
    connections: Cell<usize>,
    unsent: Cell<usize>,
}

/// What became of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Taken,
    /// The connection is gone.
    Gone,
    /// The connection is closed, as there are too many bytes that were not taken.
    Crowded,
}

struct Connection {
    client: Rc<Share>,
    replies: mpsc::UnboundedSender<Vec<u8>>,
    unsent: Cell<usize>,
    /// Queries without their answers.
    waiting: Cell<u32>,
    active: Cell<Instant>,
    drained: Notify,
    close: Notify,
}

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Hands an answer to its connection.
    pub(super) fn reply(&self, number: u64, bytes: Vec<u8>) -> Delivery {
        let open = self.open.borrow();
        let Some(connection) = open.get(&number) else { return Delivery::Gone };
        let length = bytes.len();
        let fits = self.unsent.get() + length <= MAX_UNSENT_TOTAL
            && connection.client.unsent.get() + length <= MAX_UNSENT_PER_CLIENT;
        if !fits {
            connection.close.notify_one();
            return Delivery::Crowded;
        }
        if connection.replies.send(bytes).is_err() {
            connection.close.notify_one();
            return Delivery::Gone;
        }
        for unsent in [&connection.unsent, &connection.client.unsent, &self.unsent] {
            unsent.set(unsent.get() + length);
        }
        Delivery::Taken
    }

    /// So many bytes of a connection's answers need no room any more.
    fn sent(&self, connection: &Connection, length: usize) {
        for unsent in [&connection.unsent, &connection.client.unsent, &self.unsent] {
            unsent.set(unsent.get() - length);
        }
    }

    /// Makes room by closing the connection that has been of no use for longest; false when all are in use.
    fn evict(&self) -> bool {
        let open = self.open.borrow();
        let idle = open.values().filter(|connection| {
            connection.waiting.get() == 0
                && connection.unsent.get() == 0
                && connection.active.get().elapsed() > EVICTABLE
        });
        let oldest = idle.min_by_key(|connection| connection.active.get());
        let Some(oldest) = oldest else { return false };
        oldest.close.notify_one();
        // It takes a moment to go; the next newcomer needs another's place.
        oldest.active.set(Instant::now());
        true
    }

    fn is_full_for(&self, address: IpAddr) -> bool {
        self.by_client.borrow().get(&address).is_some_and(|share| share.connections.get() >= MAX_CONNECTIONS_PER_CLIENT)
    }

    fn enter(&self, address: IpAddr) -> (u64, Rc<Connection>, mpsc::UnboundedReceiver<Vec<u8>>) {
        let number = self.last.get() + 1;
        self.last.set(number);
        let (replies, receiver) = mpsc::unbounded_channel();
        let client = Rc::clone(self.by_client.borrow_mut().entry(address).or_default());
        client.connections.set(client.connections.get() + 1);
        let connection = Rc::new(Connection {
            client,
            replies,
            unsent: Cell::new(0),
            waiting: Cell::new(0),
            active: Cell::new(Instant::now()),
            drained: Notify::new(),
            close: Notify::new(),
        });
        self.open.borrow_mut().insert(number, Rc::clone(&connection));
        (number, connection, receiver)
    }

    fn leave(&self, number: u64, address: IpAddr) {
        let Some(connection) = self.open.borrow_mut().remove(&number) else { return };
        self.sent(&connection, connection.unsent.get());
        let client = &connection.client;
        client.connections.set(client.connections.get() - 1);
        if client.connections.get() == 0 {
            self.by_client.borrow_mut().remove(&address);
        }
    }
}

pub(super) async fn serve_udp(shell: Rc<Shell>, socket: usize) {
    let _vital = Vital("answers DNS queries");
    let mut batch = Batch::new();
    let fd = shell.udp[socket].as_raw_fd();
    loop {
        let mut result = shell.udp[socket].readable().await;
        for _ in 0..ROUNDS {
            match shell.udp[socket].try_io(Interest::READABLE, || batch.receive(fd)) {
                Ok(count) => {
                    serve_batch(&shell, socket, &mut batch, count);
                    if count < BATCH {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        shell.pump();
        if result.is_err() {
            shell.counters.borrow_mut().receive_errors += 1;
            tokio::time::sleep(PAUSE).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

fn serve_batch(shell: &Shell, socket: usize, batch: &mut Batch, count: usize) {
    let now = shell.now();
    let mut engine = shell.engine.borrow_mut();
    for index in 0..count {
        let Some((query, address, answer)) = batch.query(index) else { continue };
        let client = Client { address, transport: Transport::Udp { socket } };
        if engine.handle_query(now, client, query, answer) {
            batch.answered(index);
        }
    }
    let refused = batch.send(shell.udp[socket].as_raw_fd());
    shell.counters.borrow_mut().replies_dropped += refused;
}

pub(super) async fn accept(shell: Rc<Shell>, listener: TcpListener) {
    let _vital = Vital("takes DNS connections");
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            shell.counters.borrow_mut().receive_errors += 1;
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let ip = address.ip();
        if shell.connections.is_full_for(ip) {
            shell.counters.borrow_mut().tcp_refused += 1;
            continue;
        }
        if shell.connections.len() >= MAX_CONNECTIONS {
            if shell.connections.evict() {
                // The newcomer waits a moment for the place; one more or less does no harm.
                shell.counters.borrow_mut().tcp_evicted += 1;
            } else {
                shell.counters.borrow_mut().tcp_refused += 1;
                continue;
            }
        }
        shell.counters.borrow_mut().tcp_accepted += 1;
        let (number, connection, replies) = shell.connections.enter(ip);
        let client = Client { address, transport: Transport::Tcp { connection: number } };
        let shell = Rc::clone(&shell);
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = serve_tcp(&shell, stream, client, &connection, replies) => {}
                () = connection.close.notified() => {}
            }
            shell.connections.leave(number, ip);
        });
    }
}

async fn serve_tcp(
    shell: &Rc<Shell>,
    stream: TcpStream,
    client: Client,
    connection: &Connection,
    replies: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    // Without it small answers wait for acknowledgements; where it fails they are merely slower.
    let _ = stream.set_nodelay(true);
    // What a client does not read waits here, where it is counted, and not in the kernel, which would take megabytes.
    let _ = socket2::SockRef::from(&stream).set_send_buffer_size(MAX_UNSENT);
    let (reader, writer) = stream.into_split();
    let free = Semaphore::new(MAX_PIPELINED as usize);
    let writing = write_replies(shell, writer, replies, connection, &free);
    let reading = async {
        read_queries(shell, reader, client, connection, &free).await;
        // The last queries still get their answers, also when the client has closed its half.
        let _ = timeout(IDLE, free.acquire_many(MAX_PIPELINED)).await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

async fn read_queries(
    shell: &Rc<Shell>,
    mut reader: OwnedReadHalf,
    client: Client,
    connection: &Connection,
    free: &Semaphore,
) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let Ok(permit) = free.acquire().await else { return };
        while connection.unsent.get() > MAX_UNSENT {
            // The writer gives up on a client that does not read, and ends this with it.
            connection.drained.notified().await;
        }
        match timeout(IDLE, read_query(&mut reader, &mut buffer)).await {
            Ok(Ok(length)) => {
                connection.active.set(Instant::now());
                loop {
                    let wait = shell.engine.borrow_mut().tcp_wait(shell.now(), client.address.ip());
                    let Some(wait) = wait else { break };
                    tokio::time::sleep(wait).await;
                }
                let before = shell.engine.borrow().dropped();
                connection.waiting.set(connection.waiting.get() + 1);
                shell.query(client, &buffer[..length]);
                let garbage = shell.engine.borrow().dropped() != before;
                shell.pump();
                if garbage {
                    // Too short for a header, or a response: nothing that an answer could be addressed to, and no peer that
                    // has anything to ask.
                    connection.waiting.set(connection.waiting.get() - 1);
                    shell.counters.borrow_mut().tcp_garbage += 1;
                    return;
                }
                // Given back when the answer is written.
                permit.forget();
            }
            Ok(Err(_)) => return,
            Err(_) => {
                shell.counters.borrow_mut().tcp_idle += 1;
                return;
            }
        }
    }
}

/// Reads one message. Of a longer one than any query only the header is kept, enough to refuse it by its id.
async fn read_query(reader: &mut OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
    let length = usize::from(reader.read_u16().await?);
    if let Some(query) = buffer.get_mut(..length) {
        reader.read_exact(query).await?;
        return Ok(length);
    }
    reader.read_exact(&mut buffer[..HEADER]).await?;
    let mut left = length - HEADER;
    while left > 0 {
        let (_, scratch) = buffer.split_at_mut(HEADER);
        let room = left.min(scratch.len());
        reader.read_exact(&mut scratch[..room]).await?;
        left -= room;
    }
    Ok(HEADER)
}

async fn write_replies(
    shell: &Shell,
    mut writer: OwnedWriteHalf,
    mut replies: mpsc::UnboundedReceiver<Vec<u8>>,
    connection: &Connection,
    free: &Semaphore,
) {
    let mut message = Vec::new();
    while let Some(reply) = replies.recv().await {
        message.clear();
        message.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        message.extend_from_slice(&reply);
        match timeout(IDLE, writer.write_all(&message)).await {
            Ok(Ok(())) => {
                shell.connections.sent(connection, reply.len());
                connection.waiting.set(connection.waiting.get().saturating_sub(1));
                connection.active.set(Instant::now());
                connection.drained.notify_one();
                free.add_permits(1);
                message.shrink_to(MAX_QUERY);
            }
            Ok(Err(_)) => return,
            Err(_) => {
                shell.counters.borrow_mut().tcp_slow += 1;
                return;
            }
        }
    }
}
