//! What waits for one connection's socket: the rest of what is sealed, and behind it the fair queue of what is not.
//!
//! The kernel is given little more than it needs until our next turn: what lies there cannot be reordered, marked or
//! dropped. So on a line slower than its senders the waiting happens in the fair queue, and on a line that takes
//! everything nothing waits and no packet is copied.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::backlog::Backlog;
use super::outgoing::Run;
use super::scratch::{RUN_LEN, Sealing};
use super::stats::WorkerCounters;
use super::tls::Tls;
use super::transport::Lost;
use crate::core::frame::Offload;
use crate::core::iphttps::Format;
use crate::core::queue::{self, Budget, FairQueue, Pace, Progress};
use crate::core::time::Now;

/// An empty queue is kept so long: traffic that made it necessary once tends to come back.
const REST: Duration = Duration::from_secs(1);
/// What is sealed at once out of the queue: half a run, so that a super-segment always fits behind what is in it.
const MOST_AT_ONCE: usize = RUN_LEN / 2;
/// With a limit of unsent bytes below this one, pieces are cut off from each other in the kernel. It looks at its limits
/// (of unsent bytes, and of bytes that wait in the queue of a network interface) only between the buffers it makes, and
/// would make them of 64 KiB otherwise.
const CUT_BELOW: usize = 64 * 1024;
/// tcpi_bytes_acked and tcpi_notsent_bytes in `struct tcp_info` (include/uapi/linux/tcp.h, since Linux 4.6).
const ACKNOWLEDGED_AT: usize = 120;
const UNSENT_AT: usize = 144;

/// What the queues of one process have in common.
#[derive(Clone, Debug)]
pub struct Queues {
    pub budget: Arc<Budget>,
    /// Secret: whoever knows it can make flows collide.
    pub seed: u64,
    /// Of the thread that the connection belongs to.
    pub counters: Arc<WorkerCounters>,
}

impl Queues {
    /// Queues that hold `limit` bytes in all.
    pub fn new(limit: usize) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self { budget: Arc::new(Budget::new(limit)), seed: RandomState::new().hash_one(0), counters: Arc::default() }
    }

    /// The same for connections of a thread with these counters.
    pub fn counted_by(&self, counters: &Arc<WorkerCounters>) -> Self {
        Self { counters: counters.clone(), ..self.clone() }
    }

    /// A JSON object: the memory for all queues.
    pub fn stats(&self) -> Value {
        let budget = &self.budget;
        json!({"limit_bytes": budget.limit(), "held_bytes": budget.used(), "dropped_memory": budget.refused()})
    }
}

/// What was sent and what was not, since the connection began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub bytes: u64,
    /// Super-segments counted by their segments.
    pub packets: u64,
    pub unusable: u64,
    pub queue: queue::Counters,
}

impl Totals {
    /// Those of two connections together.
    pub fn and(self, other: &Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            packets: self.packets + other.packets,
            unusable: self.unusable + other.unusable,
            queue: self.queue.and(Some(&other.queue)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Outlet {
    /// Sealed, and to go out in front of whatever is written next.
    held: Vec<u8>,
    backlog: Backlog,
    /// Only while packets wait, or did so lately.
    queue: Option<Box<FairQueue>>,
    /// It has come into being, and its owner does not know.
    news: bool,
    queues: Queues,
    limit: usize,
    format: Format,
    pace: Pace,
    /// What the kernel was told last.
    ahead: usize,
    totals: Totals,
    /// What the thread's counters know of them.
    told: Totals,
    /// Of queues that are gone.
    earlier: queue::Counters,
}

impl Outlet {
    /// What the kernel is told of every connection before anything is known about it: TCP_NOTSENT_LOWAT, in bytes.
    pub const UNSENT: u32 = Pace::FIRST_AHEAD as u32;

    /// For a socket that has this limit.
    pub fn new(queues: Queues, limit: usize) -> Self {
        let pace = Pace::default();
        Self {
            held: Vec::new(),
            backlog: Backlog::default(),
            queue: None,
            news: false,
            queues,
            limit,
            format: Format::Packets,
            pace,
            ahead: pace.ahead(),
            totals: Totals::default(),
            told: Totals::default(),
            earlier: queue::Counters::default(),
        }
    }

    /// The tunnel is up: how its packets travel, and how many bytes may wait.
    pub fn begin(&mut self, format: Format, limit: usize) {
        (self.format, self.limit) = (format, limit);
    }

    /// Whether anything waits: then whatever comes has to wait behind it.
    pub fn waits(&self) -> bool {
        self.backlog.len() > 0 || self.queues()
    }

    /// Whether packets wait, and not only the rest of what was sealed.
    pub fn queues(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.is_empty())
    }

    /// Memory of what waits.
    pub fn held(&self) -> usize {
        self.backlog.len() + self.queue.as_ref().map_or(0, |queue| queue.bytes())
    }

    /// Ciphertext that waits.
    pub fn sealed(&self) -> usize {
        self.backlog.len()
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn totals(&self) -> Totals {
        Totals { queue: self.earlier.and(self.queue.as_ref().map(|queue| queue.counters())), ..self.totals }
    }

    /// Tells the thread's counters what is new.
    fn account(&mut self) {
        let totals = self.totals();
        let (told, counters) = (std::mem::replace(&mut self.told, totals), &self.queues.counters);
        counters.bytes_out.add(totals.bytes - told.bytes);
        counters.packets_out.add(totals.packets - told.packets);
        counters.drop_unusable.add(totals.unusable - told.unusable);
        counters.drop_queue_full.add(totals.queue.dropped_full - told.queue.dropped_full);
        counters.drop_queue_delay.add(totals.queue.dropped_delay - told.queue.dropped_delay);
        counters.queued.add(totals.queue.queued - told.queue.queued);
        counters.marked.add(totals.queue.marked - told.queue.marked);
    }

    /// Gives the memory of a queue that is not needed any more back. Returns whether there is one still.
    pub fn rest(&mut self, now: Now) -> bool {
        if let Some(queue) = self.queue.take_if(|queue| queue.is_empty() && now.since(queue.used_at()) >= REST) {
            self.earlier = self.earlier.and(Some(queue.counters()));
        }
        self.queue.is_some()
    }

    /// Whether a queue has come into being since this was asked.
    pub fn is_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Lets a packet wait.
    pub fn push(&mut self, now: Now, packet: &[u8], offload: Offload) {
        let queue = self.queue.get_or_insert_with(|| {
            self.news = true;
            Box::new(FairQueue::new(now, self.queues.seed, self.limit, self.queues.budget.clone()))
        });
        // What is sealed counts, but a burst that was sealed at once leaves the queue room to work.
        queue.set_limit((self.limit.saturating_sub(self.backlog.len())).max(self.limit / 2));
        queue.push(now, packet, offload);
        self.account();
    }

    /// Sends a run at once if the socket takes it, and lets it wait otherwise.
    pub fn send(
        &mut self,
        now: Now,
        stream: &TcpStream,
        tls: &mut Tls,
        run: &Run,
        sealing: &mut Sealing,
    ) -> Result<(), Lost> {
        let waits = self.waits();
        if !waits && run.bytes().len() <= self.burst() {
            self.seal(stream, tls, run, &mut sealing.cipher)?;
            self.measure(now, stream, run.bytes().len());
            self.account();
            return Ok(());
        }
        for (packet, offload) in run.frames(self.format) {
            self.push(now, packet, offload);
        }
        if waits { Ok(()) } else { self.flush(now, stream, tls, sealing) }
    }

    /// What may be sealed before the kernel has taken anything of it.
    fn burst(&self) -> usize {
        if self.ahead < Pace::default().ahead() { self.piece() } else { RUN_LEN }
    }

    /// What is sealed at once while packets wait.
    fn piece(&self) -> usize {
        if self.cuts() { self.ahead / 4 } else { (self.ahead / 2).min(MOST_AT_ONCE) }
    }

    /// Whether the kernel must be kept from joining what is written.
    fn cuts(&self) -> bool {
        self.ahead < CUT_BELOW
    }

    /// Seals a run and writes it behind what was sealed before.
    fn seal(&mut self, stream: &TcpStream, tls: &mut Tls, run: &Run, cipher: &mut [u8]) -> Result<(), Lost> {
        let len = tls.seal(run.bytes(), cipher).map_err(Lost::Tls)?;
        self.totals.bytes += run.bytes().len() as u64;
        self.totals.packets += run.packets();
        self.write(stream, &cipher[..len])
    }

    /// Keeps what is sealed until more is written: one system call, one segment, and one time that the peer wakes up.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Writes what is sealed behind what was sealed before.
    pub fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> Result<(), Lost> {
        if self.held.is_empty() {
            return self.write_behind(stream, bytes);
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        self.write_behind(stream, &all)
    }

    fn write_behind(&mut self, stream: &TcpStream, bytes: &[u8]) -> Result<(), Lost> {
        let cut = self.cuts();
        let mut sent = 0;
        while self.backlog.len() == 0 && sent < bytes.len() {
            let result = if cut { write_cut(stream, &bytes[sent..]) } else { stream.try_write(&bytes[sent..]) };
            match result {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.backlog.push(&bytes[sent..]);
        Ok(())
    }

    /// Writes as much of what is sealed as the socket takes.
    pub fn flush_sealed(&mut self, stream: &TcpStream) -> Result<(), Lost> {
        while self.backlog.len() > 0 {
            let mut parts = [IoSlice::new(&[]); 16];
            let count = self.backlog.parts(&mut parts);
            let result = match self.cuts() {
                true => write_cut(stream, &parts[0]),
                false => stream.try_write_vectored(&parts[..count]),
            };
            match result {
                Ok(count) => self.backlog.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends as much of what waits as the socket takes.
    pub fn flush(&mut self, now: Now, stream: &TcpStream, tls: &mut Tls, sealing: &mut Sealing) -> Result<(), Lost> {
        self.flush_sealed(stream)?;
        let Sealing { run, cipher } = sealing;
        let piece = self.piece();
        let before = self.totals.bytes;
        while self.backlog.len() == 0 {
            let Some(queue) = self.queue.as_mut() else { break };
            run.clear();
            while run.bytes().len() < piece {
                let Some(packet) = queue.pop(now) else { break };
                if run.append(&packet.bytes, packet.offload, self.format).is_err() {
                    self.totals.unusable += 1;
                }
            }
            if run.is_empty() {
                break;
            }
            self.seal(stream, tls, run, cipher)?;
        }
        self.measure(now, stream, (self.totals.bytes - before) as usize);
        self.account();
        Ok(())
    }

    /// Adapts what the kernel may hold to the rate at which it sends; `bytes` were given to it now.
    fn measure(&mut self, now: Now, stream: &TcpStream, bytes: usize) {
        if self.waits() {
            if !self.pace.is_due(now) {
                return;
            }
            // A kernel that does not tell leaves the rate unknown, which costs latency only.
            let Some(progress) = progress(stream) else { return };
            self.pace.busy(now, progress);
        } else {
            self.pace.took(now, bytes);
        }
        let ahead = self.pace.ahead();
        if ahead.abs_diff(self.ahead) > self.ahead / 4 {
            // Refused, it stays what it was, and so does what is told apart by it.
            if SockRef::from(stream).set_tcp_notsent_lowat(ahead as u32).is_ok() {
                self.ahead = ahead;
            }
        }
        if let Some(queue) = &mut self.queue {
            queue.set_grain(self.pace.grain(), self.pace.packet_time());
        }
    }
}

/// How far the kernel is.
fn progress(stream: &TcpStream) -> Option<Progress> {
    let mut info = [0u8; UNSENT_AT + 4];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live buffer.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
    };
    if result != 0 || len as usize != info.len() {
        return None;
    }
    let acknowledged = u64::from_ne_bytes(info[ACKNOWLEDGED_AT..ACKNOWLEDGED_AT + 8].try_into().ok()?);
    let unsent = u32::from_ne_bytes(info[UNSENT_AT..].try_into().ok()?);
    Some(Progress { acknowledged, unsent: unsent.into() })
}

/// Writes bytes that the kernel joins with no others.
fn write_cut(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || {
        let flags = libc::MSG_EOR | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the kernel reads the bytes of a live slice.
        let count = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    })
}
