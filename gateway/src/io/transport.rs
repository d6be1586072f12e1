//! One TLS connection over a socket, the same at both ends: reads as much as there is, opens it, seals vectors, writes
//! without waiting and keeps a bounded rest when the socket is full.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::clock::Clock;
use super::outgoing::Run;
use super::outlet::{Outlet, Queues, Totals};
use super::scratch::{READ_LEN, RUN_LEN, Scratch, Sealing};
use super::tls::Tls;
use crate::core::frame::Offload;
use crate::core::iphttps::Format;
use crate::core::time::Now;

/// Seconds without an acknowledgement after which the connection is dead.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Unfinished handshakes hold no more ciphertext than this.
const MAX_PENDING: usize = 64 * 1024 + READ_LEN;

/// Why a connection ended.
#[derive(Debug)]
pub enum Lost {
    /// The peer closed it in good order.
    Closed,
    Tls(rustls::Error),
    Io(io::Error),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the peer"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
struct State {
    tls: Tls,
    /// The start of a record, or in a handshake of a message.
    pending: Vec<u8>,
    outlet: Outlet,
}

#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
    state: RefCell<State>,
    /// Told when a backlog came into being or the owner should look at its own flags.
    wake: Notify,
    /// Told when a backlog has gone.
    drained: Notify,
    clock: Clock,
    /// Whether TLS took something from the peer and had something to say to it.
    answered: Cell<bool>,
    /// The peer said that it sends nothing more.
    closed: Cell<bool>,
    /// TLS failed: its state must not be touched again, and the alert, if any, is sent.
    failed: Cell<bool>,
}

impl Transport {
    /// A connection whose queue may hold `queue_bytes`. Its socket went through [`tune`], or comes from a listener that
    /// did.
    pub fn new(stream: TcpStream, tls: Tls, clock: Clock, queues: Queues, queue_bytes: usize) -> Self {
        let outlet = Outlet::new(queues, queue_bytes);
        let state = RefCell::new(State { tls, pending: Vec::new(), outlet });
        Self {
            stream,
            state,
            wake: Notify::new(),
            drained: Notify::new(),
            clock,
            answered: Cell::new(false),
            closed: Cell::new(false),
            failed: Cell::new(false),
        }
    }

    /// Waits until `receive` may find something, and sends what waits meanwhile. Returns false when woken by `wake`.
    pub async fn ready(&self, scratch: &RefCell<Scratch>) -> Result<bool, Lost> {
        loop {
            if self.closed.get() {
                return Err(Lost::Closed);
            }
            let interest = if self.waits() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = tokio::select! {
                ready = self.stream.ready(interest) => ready?,
                () = self.wake.notified() => {
                    if self.waits() && interest == Interest::READABLE {
                        continue;
                    }
                    return Ok(false);
                }
            };
            if ready.is_writable() {
                self.flush(&mut scratch.borrow_mut().sealing)?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                return Ok(true);
            }
        }
    }

    /// Makes `ready` return soon.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Reads once and opens all complete records; the plaintext is added to what is in `scratch.plain_in`. Returns whether
    /// the socket may hold more.
    pub fn receive(&self, scratch: &mut Scratch) -> Result<bool, Lost> {
        let mut state = self.state.borrow_mut();
        let State { tls, pending, .. } = &mut *state;
        let held = pending.len();
        if held + READ_LEN / 4 > scratch.cipher_in.len() || held > MAX_PENDING {
            return Err(Lost::Tls(rustls::Error::General("handshake message too long".to_owned())));
        }
        scratch.cipher_in[..held].copy_from_slice(pending);
        let (count, more) = read_available(&self.stream, &mut scratch.cipher_in[held..])?;
        if count == 0 && held == 0 && !tls.is_handshaking() {
            return Ok(false);
        }
        let cipher = &mut scratch.cipher_in[..held + count];
        scratch.plain_in.reserve(cipher.len());
        scratch.control_out.clear();
        let handshaking = tls.is_handshaking();
        let result = tls.receive(cipher, &mut scratch.plain_in, &mut scratch.control_out);
        self.failed.set(result.is_err());
        let consumed = result.as_ref().map_or(0, |received| received.consumed);
        let rest = &cipher[consumed..];
        if rest.is_empty() {
            *pending = Vec::new();
        } else {
            pending.clear();
            pending.extend_from_slice(rest);
        }
        if !scratch.control_out.is_empty() {
            self.answered.set(self.answered.get() || result.is_ok());
            if handshaking && result.is_ok() && state.tls.peer_needs_no_answer() {
                state.outlet.hold(&scratch.control_out);
            } else {
                self.write(&mut state.outlet, &scratch.control_out)?;
            }
        }
        match result {
            Ok(received) if received.closed && scratch.plain_in.is_empty() => Err(Lost::Closed),
            Ok(received) => {
                self.closed.set(received.closed);
                Ok(more)
            }
            Err(error) => Err(Lost::Tls(error)),
        }
    }

    /// Starts a handshake as a client.
    pub fn start(&self, scratch: &mut Scratch) -> Result<(), Lost> {
        let mut state = self.state.borrow_mut();
        scratch.control_out.clear();
        let opened = state.tls.receive(&mut [], &mut scratch.plain_in, &mut scratch.control_out);
        opened.map_err(Lost::Tls)?;
        self.write(&mut state.outlet, &scratch.control_out)
    }

    /// Seals and sends. Returns false, with nothing done, when too much waits already.
    pub fn send(&self, plain: &[u8], cipher_out: &mut [u8]) -> Result<bool, Lost> {
        if self.failed.get() {
            return Err(Lost::Tls(rustls::Error::HandshakeNotComplete));
        }
        let mut state = self.state.borrow_mut();
        if state.outlet.sealed() > 0 && state.outlet.sealed() + plain.len() > state.outlet.limit() {
            return Ok(false);
        }
        for piece in plain.chunks(RUN_LEN) {
            let State { tls, outlet, .. } = &mut *state;
            let len = tls.seal(piece, cipher_out).map_err(Lost::Tls)?;
            self.write(outlet, &cipher_out[..len])?;
        }
        Ok(true)
    }

    /// Seals what goes out with whatever is sent next: [`Self::release`] must follow.
    pub fn hold(&self, plain: &[u8], cipher_out: &mut [u8]) -> Result<(), Lost> {
        let mut state = self.state.borrow_mut();
        let State { tls, outlet, .. } = &mut *state;
        let len = tls.seal(plain, cipher_out).map_err(Lost::Tls)?;
        outlet.hold(&cipher_out[..len]);
        Ok(())
    }

    /// Sends what is held if nothing has taken it along.
    pub fn release(&self) -> Result<(), Lost> {
        self.write(&mut self.state.borrow_mut().outlet, &[])
    }

    /// The tunnel is up: how its packets travel, and how many bytes of them may wait.
    pub fn begin(&self, format: Format, queue_bytes: usize) {
        self.state.borrow_mut().outlet.begin(format, queue_bytes);
    }

    /// Sends a run of packets at once, or lets them wait if the socket takes no more.
    pub fn send_run(&self, run: &Run, sealing: &mut Sealing) -> Result<(), Lost> {
        self.use_outlet(|now, stream, state| state.outlet.send(now, stream, &mut state.tls, run, sealing))
    }

    /// Lets a packet wait. Only while others do: `waits` says so.
    pub fn push(&self, packet: &[u8], offload: Offload) {
        self.state.borrow_mut().outlet.push(self.clock.now(), packet, offload);
    }

    fn flush(&self, sealing: &mut Sealing) -> Result<(), Lost> {
        self.use_outlet(|now, stream, state| state.outlet.flush(now, stream, &mut state.tls, sealing))
    }

    fn use_outlet(&self, act: impl FnOnce(Now, &TcpStream, &mut State) -> Result<(), Lost>) -> Result<(), Lost> {
        if self.failed.get() {
            return Err(Lost::Tls(rustls::Error::HandshakeNotComplete));
        }
        let mut state = self.state.borrow_mut();
        let before = state.outlet.waits();
        let result = act(self.clock.now(), &self.stream, &mut state);
        self.tell(before, state.outlet.waits());
        result
    }

    /// Whoever polls `ready` must watch for room when something begins to wait.
    fn tell(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.wake.notify_one(),
            (true, false) => self.drained.notify_one(),
            _ => {}
        }
    }

    /// Tells the peer that nothing follows, unless an alert already said why.
    pub fn close(&self, cipher_out: &mut [u8]) {
        if self.failed.get() {
            return;
        }
        let mut state = self.state.borrow_mut();
        let State { tls, outlet, .. } = &mut *state;
        if let Ok(len) = tls.close(cipher_out) {
            // The connection ends anyway; whether the alert arrives changes nothing.
            let _ = self.write(outlet, &cipher_out[..len]);
        }
    }

    fn write(&self, outlet: &mut Outlet, bytes: &[u8]) -> Result<(), Lost> {
        let before = outlet.waits();
        outlet.write(&self.stream, bytes)?;
        self.tell(before, outlet.waits());
        Ok(())
    }

    /// Sends the rest, says that nothing follows, and waits for the peer to close: a socket closed with unread bytes
    /// would take the last answer with it.
    pub async fn drain(&self) {
        while self.state.borrow().outlet.sealed() > 0 {
            let sent = self.stream.writable().await.map_err(Lost::from);
            if sent.and_then(|()| self.state.borrow_mut().outlet.flush_sealed(&self.stream)).is_err() {
                return;
            }
        }
        if SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let mut unread = [0; 4096];
        while self.stream.readable().await.is_ok() {
            match self.stream.try_read(&mut unread) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Waits until nothing waits for the socket. `ready` must be polled meanwhile, it is what sends.
    pub async fn drained(&self) {
        while self.waits() {
            self.drained.notified().await;
        }
    }

    /// Whether something waits for the socket: packets that come now have to wait behind it.
    pub fn waits(&self) -> bool {
        self.state.borrow().outlet.waits()
    }

    /// Whether packets wait, and not only the rest of what was sealed.
    pub fn queues(&self) -> bool {
        self.state.borrow().outlet.queues()
    }

    /// Bytes of memory that hold what waits for the socket.
    pub fn held(&self) -> usize {
        self.state.borrow().outlet.held()
    }

    pub fn totals(&self) -> Totals {
        self.state.borrow().outlet.totals()
    }

    /// Gives back what a queue that is not needed any more holds; returns whether there is one still. Call now and then.
    pub fn rest(&self) -> bool {
        self.state.borrow_mut().outlet.rest(self.clock.now())
    }

    /// Whether a queue has come into being since this was asked: then `rest` must be called until it is gone.
    pub fn has_new_queue(&self) -> bool {
        self.state.borrow_mut().outlet.is_news()
    }

    pub fn is_handshaking(&self) -> bool {
        self.state.borrow().tls.is_handshaking()
    }

    /// Whether the peer began a handshake that was worth an answer.
    pub fn has_answered(&self) -> bool {
        self.answered.get()
    }

    pub fn resumed(&self) -> bool {
        self.state.borrow().tls.resumed()
    }

    pub fn version(&self) -> &'static str {
        self.state.borrow().tls.version()
    }

    /// Looks at the chain the peer showed, its own certificate first; empty when it showed none.
    pub fn with_peer_certificates<T>(&self, look: impl FnOnce(&[CertificateDer<'static>]) -> T) -> T {
        look(self.state.borrow().tls.peer_certificates().unwrap_or_default())
    }

    /// Makes the kernel send a reset when the descriptor closes, so that nothing lingers for a peer that does not read.
    pub fn reset_on_close(&self) {
        // Without it the connection is closed in the ordinary way, which only takes longer.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// Reads what is there, at most one buffer full. Returns the bytes and whether there may be more.
fn read_available(stream: &TcpStream, buffer: &mut [u8]) -> Result<(usize, bool), Lost> {
    let room = buffer.len();
    let mut count = 0;
    let result = stream.try_io(Interest::READABLE, || {
        // SAFETY: the kernel writes at most `room` bytes into a live buffer.
        let read = unsafe { libc::recv(stream.as_raw_fd(), buffer.as_mut_ptr().cast(), room, 0) };
        count = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        // A short read emptied the socket; saying so spares the system call that would find it empty. A full stop
        // (count 0) must stay visible.
        if count > 0 && count < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Ok(()) if count == 0 => Err(Lost::Closed),
        Ok(()) => Ok((count, true)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((count, false)),
        Err(error) => Err(error.into()),
    }
}

/// Sets the options of a connection on its socket, or on a listening socket for all connections that come from then on:
/// the kernel gives a new connection its listener's options, which spares as many system calls for each.
pub fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // An idle tunnel whose other end is gone is noticed when a probe was not answered and USER_TIMEOUT has passed:
    // 20 to 25 s after the last sign of life. Manage-out depends on it, because nothing else would make a client redial.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(4),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(Outlet::UNSENT)
}
