//! The clients' side: datagrams, and connections with several queries each (RFC 7766).

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::Shell;
use crate::core::dns64::{Client, Transport};

/// The largest query read: a name, an OPT record and its options fit many times.
const MAX_QUERY: usize = 4096;
/// Datagrams taken in a row before other tasks have their turn.
const BURST: usize = 64;
/// Connections of all clients, and of one address.
const MAX_CONNECTIONS: usize = 1024;
const MAX_CONNECTIONS_PER_CLIENT: usize = 32;
/// Queries of one connection waiting for their answers; the next is read when one of them has its answer.
const MAX_PIPELINED: u32 = 64;
/// How long a connection may be silent, take to send one query, or leave an answer unread.
const IDLE: Duration = Duration::from_secs(10);
/// The pause after an error that may persist, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve_udp(shell: Rc<Shell>, socket: usize) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let mut result = shell.udp[socket].readable().await;
        for _ in 0..BURST {
            match shell.udp[socket].try_recv_from(&mut buffer) {
                Ok((length, address)) => {
                    shell.query(Client { address, transport: Transport::Udp { socket } }, &buffer[..length]);
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

pub(super) async fn accept(shell: Rc<Shell>, listener: TcpListener) {
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            shell.counters.borrow_mut().receive_errors += 1;
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let own = shell.connections_by_client.borrow().get(&address.ip()).copied().unwrap_or(0);
        if shell.connections.borrow().len() >= MAX_CONNECTIONS || own >= MAX_CONNECTIONS_PER_CLIENT {
            shell.counters.borrow_mut().tcp_refused += 1;
            continue;
        }
        shell.counters.borrow_mut().tcp_accepted += 1;
        let connection = shell.last_connection.get() + 1;
        shell.last_connection.set(connection);
        let (sender, replies) = mpsc::unbounded_channel();
        shell.connections.borrow_mut().insert(connection, sender);
        *shell.connections_by_client.borrow_mut().entry(address.ip()).or_default() += 1;
        let client = Client { address, transport: Transport::Tcp { connection } };
        let shell = Rc::clone(&shell);
        tokio::task::spawn_local(async move {
            serve_tcp(&shell, stream, client, replies).await;
            shell.connections.borrow_mut().remove(&connection);
            let mut clients = shell.connections_by_client.borrow_mut();
            if let Some(own) = clients.get_mut(&address.ip()) {
                *own -= 1;
                if *own == 0 {
                    clients.remove(&address.ip());
                }
            }
        });
    }
}

async fn serve_tcp(shell: &Rc<Shell>, stream: TcpStream, client: Client, replies: mpsc::UnboundedReceiver<Vec<u8>>) {
    // Without it small answers wait for acknowledgements; where it fails they are merely slower.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let free = Semaphore::new(MAX_PIPELINED as usize);
    let writing = write_replies(writer, replies, &free);
    let reading = async {
        read_queries(shell, reader, client, &free).await;
        // The last queries still get their answers, also when the client has closed its half.
        let _ = timeout(IDLE, free.acquire_many(MAX_PIPELINED)).await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

async fn read_queries(shell: &Rc<Shell>, mut reader: OwnedReadHalf, client: Client, free: &Semaphore) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let Ok(permit) = free.acquire().await else { return };
        match timeout(IDLE, read_query(&mut reader, &mut buffer)).await {
            Ok(Ok(length)) => {
                let before = shell.engine.borrow().dropped();
                shell.query(client, &buffer[..length]);
                // Given back when the answer is written; what gets no answer gives it back at once.
                if shell.engine.borrow().dropped() == before {
                    permit.forget();
                }
                shell.pump();
            }
            Ok(Err(_)) => return,
            Err(_) => {
                shell.counters.borrow_mut().tcp_idle += 1;
                return;
            }
        }
    }
}

async fn read_query(reader: &mut OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
    let length = usize::from(reader.read_u16().await?);
    let Some(query) = buffer.get_mut(..length) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    reader.read_exact(query).await?;
    Ok(length)
}

async fn write_replies(mut writer: OwnedWriteHalf, mut replies: mpsc::UnboundedReceiver<Vec<u8>>, free: &Semaphore) {
    let mut message = Vec::new();
    while let Some(reply) = replies.recv().await {
        message.clear();
        message.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        message.extend_from_slice(&reply);
        match timeout(IDLE, writer.write_all(&message)).await {
            Ok(Ok(())) => free.add_permits(1),
            _ => return,
        }
    }
}
