//! One attempt at one server: a socket of its own, so that its port is drawn anew each time and nothing else is heard on it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::Shell;

/// More than the payload offered, for servers that do not look at it.
const DATAGRAM: usize = 4096;

/// Sends and listens until the engine cancels the attempt, which ends this task.
pub(super) async fn exchange(shell: Rc<Shell>, attempt: u64, server: SocketAddr, tcp: bool, bytes: Vec<u8>) {
    let result =
        if tcp { by_tcp(&shell, attempt, server, &bytes).await } else { by_udp(&shell, attempt, server, &bytes).await };
    if result.is_err() {
        shell.unreachable(attempt);
    }
}

async fn by_udp(shell: &Rc<Shell>, attempt: u64, server: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // The kernel then drops what comes from elsewhere and reports a closed port.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        shell.response(attempt, server, &buffer[..length]);
    }
}

async fn by_tcp(shell: &Rc<Shell>, attempt: u64, server: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut message = Vec::with_capacity(2 + bytes.len());
    message.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    message.extend_from_slice(bytes);
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    shell.response(attempt, server, &answer);
    // Had it been the answer, the attempt would be over and this word about it unheard.
    Err(io::ErrorKind::InvalidData.into())
}
