//! TLS over a socket with the TLS library's ordinary buffered interface, on purpose not with the gateway's own transport:
//! a mistake there must not be made twice.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

/// Bytes read from a socket at a time.
pub const READ: usize = 128 * 1024;

pub struct Connection {
    stream: TcpStream,
    tls: ClientConnection,
    /// Ciphertext that the socket has not taken, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// The port is chosen when the target is known, so that each target has all ports of a source.
fn late_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value lives until the call has returned.
    let result = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Connection {
    /// Connects. The source is an address of this machine, or the system's choice.
    pub async fn dial(
        source: Option<IpAddr>,
        target: SocketAddr,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source {
            late_port(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        let stream = TcpSocket::from_std_stream(socket.into()).connect(target).await?;
        stream.set_nodelay(true)?;
        let mut tls = ClientConnection::new(config, name).map_err(other)?;
        tls.set_buffer_limit(None);
        let mut connection = Self { stream, tls, unsent: Vec::new(), sent: 0 };
        connection.flush()?;
        Ok(connection)
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    pub fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Seals bytes: a record, or several if they do not fit into one. `flush` sends them.
    pub fn push(&mut self, plain: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(plain)
    }

    /// Sends as much as the socket takes.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.unsent)?;
        }
        while self.sent < self.unsent.len() {
            match self.stream.try_write(&self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // An idle client owns no memory for it.
        (self.unsent, self.sent) = (Vec::new(), 0);
        Ok(())
    }

    /// Bytes that wait for the socket.
    pub fn unsent(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Waits until there is something to read or, when something waits, room to send it.
    pub async fn ready(&self) -> io::Result<()> {
        let interest = if self.unsent() > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.stream.ready(interest).await.map(|_| ())
    }

    /// Reads once and appends what it says to `plain`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closed.
    pub fn read(&mut self, scratch: &mut [u8], plain: &mut Vec<u8>) -> io::Result<()> {
        let count = match self.stream.try_read(scratch) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.flush(),
            Err(error) => return Err(error),
        };
        let mut cipher = &scratch[..count];
        let mut closed = false;
        while !cipher.is_empty() && !closed {
            self.tls.read_tls(&mut cipher)?;
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    // The alert that says why; the connection ends whether it arrives or not.
                    let _ = self.flush();
                    return Err(other(error));
                }
            };
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut plain[start..])?;
            closed = state.peer_has_closed();
        }
        self.flush()?;
        if closed { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Says goodbye, as well as it can without waiting.
    pub fn close(mut self) {
        self.tls.send_close_notify();
        let _ = self.flush();
    }

    /// Drops the connection as a machine does that loses its power: without a word, or with a reset.
    pub fn abort(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }
}
