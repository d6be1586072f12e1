//! The tunnel's thread: the shell around the client's core.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::dial::{connect, exchange, of_io, of_tls};
use super::{Command, Prepared};
use crate::core::iphttps::{ClientAction, ClientError, ClientSession, ClientState, ClientStep, Deframer, Format};
use crate::io::clock::{Clock, jitter};
use crate::io::events::Events;
use crate::io::host::{HostWriter, MergingWriter};
use crate::io::outgoing::Run;
use crate::io::outlet::{Queues, Totals};
use crate::io::scratch::Scratch;
use crate::io::stats::HostCounters;
use crate::io::tls::Tls;
use crate::io::tls::identity::peer_text;
use crate::io::transport::{Lost, Transport, tune};
use crate::io::tun::{Device, Read};

/// Reads of the TUN queue before others get their turn.
const READS: usize = 64;
/// How long packets are left with the host, which has only a queue without fairness for them, until the socket has room.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(1);
/// Plaintext that may wait when the socket is full.
const QUEUE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Default)]
struct Counters {
    /// Of connections that have ended.
    earlier: Totals,
    dropped_down: u64,
    dropped_unusable: u64,
}

struct Client {
    clock: Clock,
    prepared: RefCell<Prepared>,
    core: RefCell<ClientSession>,
    device: Rc<Device>,
    scratch: RefCell<Scratch>,
    run: RefCell<Run>,
    host: RefCell<MergingWriter>,
    host_counters: Arc<HostCounters>,
    counters: RefCell<Counters>,
    peer: RefCell<Option<String>>,
    tls: RefCell<Option<(&'static str, bool, Format)>>,
    /// The connection that is up or being made.
    transport: RefCell<Option<Rc<Transport>>>,
    events: Arc<Events>,
    status: Arc<Mutex<Value>>,
    told: RefCell<Value>,
}

type Life<'a> = Pin<Box<dyn Future<Output = ClientError> + 'a>>;

/// Body of the thread. Sends one message on `ready` when it has started or failed to.
pub(super) fn run(
    prepared: Prepared,
    fd: OwnedFd,
    commands: mpsc::UnboundedReceiver<Command>,
    events: Arc<Events>,
    status: Arc<Mutex<Value>>,
    ready: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let started = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        let device = {
            let _entered = runtime.enter();
            Device::new(fd)?
        };
        Ok((runtime, Rc::new(device)))
    });
    let (runtime, device) = match started {
        Ok(started) => started,
        // Nobody listens only when the creator died, and then nothing matters.
        Err(error) => return drop(ready.send(Err(error))),
    };
    let host_counters = Arc::new(HostCounters::default());
    let writer = HostWriter::new(device.clone(), host_counters.clone());
    let client = Client {
        clock: Clock::start(),
        core: RefCell::new(ClientSession::new(prepared.core.clone())),
        prepared: RefCell::new(prepared),
        device,
        scratch: RefCell::default(),
        run: RefCell::default(),
        host: RefCell::new(MergingWriter::new(writer)),
        host_counters,
        counters: RefCell::default(),
        peer: RefCell::default(),
        tls: RefCell::default(),
        transport: RefCell::default(),
        events,
        status,
        told: RefCell::new(Value::Null),
    };
    client.report();
    let _ = ready.send(Ok(()));
    runtime.block_on(client.serve(commands));
}

impl Client {
    async fn serve(&self, mut commands: mpsc::UnboundedReceiver<Command>) {
        // The table allows enabling in every state.
        let _ = self.core.borrow_mut().enable(self.clock.now());
        let mut life: Option<Life<'_>> = None;
        let mut status = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            if let Some(transport) = &*self.transport.borrow() {
                transport.rest();
            }
            self.report();
            let action = self.core.borrow_mut().handle_timeout(self.clock.now(), jitter());
            match action {
                Some(ClientAction::Dial) => life = Some(Box::pin(self.live())),
                Some(ClientAction::Abort(_)) => life = None,
                None => {}
            }
            let timeout = self.core.borrow().next_timeout();
            let timeout = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            let living = async {
                match life.as_mut() {
                    Some(life) => life.await,
                    None => std::future::pending().await,
                }
            };
            let up = self.core.borrow().state() == ClientState::LinkUp;
            tokio::select! {
                error = living => {
                    life = None;
                    self.core.borrow_mut().failed(self.clock.now(), error, jitter());
                }
                command = commands.recv() => match command {
                    Some(Command::Configure(prepared)) => {
                        if self.prepared.borrow().config != prepared.config {
                            life = None;
                            *self.core.borrow_mut() = ClientSession::new(prepared.core.clone());
                            *self.prepared.borrow_mut() = *prepared;
                            let _ = self.core.borrow_mut().enable(self.clock.now());
                        }
                    }
                    Some(Command::Redial) => {
                        life = None;
                        self.core.borrow_mut().redial(self.clock.now());
                    }
                    Some(Command::Close) | None => return,
                },
                () = timeout => {}
                _ = status.tick() => {}
                // Beside the connection: a device that is not there yet must not hold up the handshake.
                () = self.discard(), if !up => {}
            }
            if life.is_none() {
                *self.peer.borrow_mut() = None;
                *self.tls.borrow_mut() = None;
                if let Some(transport) = self.transport.borrow_mut().take() {
                    let counters = &mut *self.counters.borrow_mut();
                    counters.earlier = counters.earlier.and(&transport.totals());
                }
            }
        }
    }

    /// What the host sends while the link is down goes nowhere: it would be stale when the link comes up.
    async fn discard(&self) {
        loop {
            let mut lost = self.device.readable().await.err();
            for _ in 0..READS {
                // The link may have come up meanwhile; then the packet is wanted.
                if lost.is_some() || self.core.borrow().state() == ClientState::LinkUp {
                    break;
                }
                let read = self.device.read(&mut self.scratch.borrow_mut().frame);
                match read {
                    Ok(Read::Packet(..) | Read::Unusable(_)) => self.counters.borrow_mut().dropped_down += 1,
                    Ok(Read::Empty) => break,
                    Err(error) => lost = Some(error),
                }
            }
            match lost {
                Some(error) => self.device_lost(&error).await,
                None if self.core.borrow().state() == ClientState::LinkUp => return,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// A TUN device that is down or gone: say so, and do not spin.
    async fn device_lost(&self, error: &io::Error) {
        self.events.warn("TUNNEL_DEVICE", &format!("the TUN device cannot be read: {error}"));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }

    /// One connection from its first packet to its end.
    async fn live(&self) -> ClientError {
        match self.try_live().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_live(&self) -> Result<std::convert::Infallible, ClientError> {
        let stream = self.reach().await?;
        let tls_config = self.prepared.borrow().tls.clone();
        let host = self.prepared.borrow().core.host.clone();
        let name = ServerName::try_from(host).map_err(|_| ClientError::HostNotFound)?;
        let tls = Tls::client(tls_config, name).map_err(|error| of_tls(&error))?;
        let queues = Queues::new(2 * QUEUE_BYTES);
        tune(&SockRef::from(&stream)).map_err(|error| of_io(&error))?;
        let transport = Rc::new(Transport::new(stream, tls, self.clock, queues, QUEUE_BYTES));
        *self.transport.borrow_mut() = Some(transport.clone());
        let lost = |lost: Lost| match lost {
            Lost::Closed => ClientError::Disconnected,
            Lost::Tls(error) => of_tls(&error),
            Lost::Io(error) => of_io(&error),
        };
        self.scratch.borrow_mut().plain_in.clear();
        transport.start(&mut self.scratch.borrow_mut()).map_err(lost)?;
        let format = loop {
            transport.ready(&self.scratch).await.map_err(lost)?;
            let scratch = &mut *self.scratch.borrow_mut();
            transport.receive(scratch).map_err(lost)?;
            if transport.is_handshaking() {
                continue;
            }
            let mut out = Vec::new();
            let core = &mut *self.core.borrow_mut();
            if core.state() == ClientState::LinkDown {
                core.tls_established(&mut out)?;
                transport.send(&out, &mut scratch.cipher_out).map_err(lost)?;
                out.clear();
            }
            let plain = scratch.plain_in.bytes();
            if plain.is_empty() {
                continue;
            }
            if let ClientStep::LinkUp { used, format } = core.received(self.clock.now(), plain, &mut out)? {
                transport.send(&out, &mut scratch.cipher_out).map_err(lost)?;
                scratch.plain_in.consume(used);
                break format;
            }
            scratch.plain_in.clear();
        };
        transport.begin(format, QUEUE_BYTES);
        *self.tls.borrow_mut() = Some((transport.version(), transport.resumed(), format));
        self.report();
        let mut deframer = Deframer::new(format);
        self.deliver(&mut deframer)?;
        tokio::select! {
            error = self.pump_server(&transport, &mut deframer) => error,
            error = self.pump_host(&transport, format) => error,
        }
        .map_err(|error| match error {
            End::Lost(error) => match error {
                Lost::Closed => ClientError::Reset,
                other => lost(other),
            },
            End::Stream(error) => error,
        })
    }

    /// A TCP connection to the server, through the proxy when there is one.
    async fn reach(&self) -> Result<TcpStream, ClientError> {
        let Prepared { config, core, .. } = self.prepared.borrow().clone();
        let mut stream = match &config.proxy {
            Some(proxy) => connect(&proxy.host, proxy.port, &[]).await?,
            None => connect(&core.host, core.port, &config.addresses).await?,
        };
        *self.peer.borrow_mut() = stream.peer_addr().ok().map(peer_text);
        let mut request = Vec::new();
        let mut step = self.core.borrow_mut().connected(&mut request);
        let mut buffer = vec![0; 4096];
        while step == ClientStep::NeedMore {
            let count = exchange(&mut stream, &request, &mut buffer).await?;
            request.clear();
            step = self.core.borrow_mut().proxy_received(&buffer[..count])?;
            if let ClientStep::StartTls { used } = step
                && used != count
            {
                // The server speaks second in TLS, so these bytes are the proxy's.
                return Err(ClientError::BadProxyResponse);
            }
        }
        Ok(stream)
    }

    async fn pump_server(
        &self,
        transport: &Transport,
        deframer: &mut Deframer,
    ) -> Result<std::convert::Infallible, End> {
        loop {
            transport.ready(&self.scratch).await?;
            let more = transport.receive(&mut self.scratch.borrow_mut())?;
            self.deliver(deframer)?;
            if more {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Hands the packets of one vector to the host.
    fn deliver(&self, deframer: &mut Deframer) -> Result<(), ClientError> {
        let scratch = &mut *self.scratch.borrow_mut();
        let host = &mut *self.host.borrow_mut();
        let mut input = scratch.plain_in.input();
        let result = loop {
            match deframer.next_at_hand(&mut input) {
                Ok(Some(mut frame)) => host.push(&mut frame),
                Ok(None) => break Ok(()),
                Err(_) => break Err(ClientError::BadStream),
            }
        };
        host.flush();
        // The start of a packet stays for the next vector.
        let rest = input.start;
        scratch.plain_in.consume_to(rest);
        result
    }

    async fn pump_host(&self, transport: &Transport, format: Format) -> Result<std::convert::Infallible, End> {
        loop {
            if transport.waits() && !transport.queues() {
                // A fast line has room again sooner than a packet is copied. In the end there is room or there is a queue.
                let _ = tokio::time::timeout(PATIENCE, transport.drained()).await;
            }
            if let Err(error) = self.device.readable().await {
                self.device_lost(&error).await;
                continue;
            }
            let mut error = None;
            {
                let run = &mut *self.run.borrow_mut();
                for _ in 0..READS {
                    match self.take(transport, run, format) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(failure) => {
                            error = Some(failure);
                            break;
                        }
                    }
                    if !run.has_room() {
                        self.send(transport, run)?;
                        if transport.waits() {
                            break;
                        }
                    }
                }
                self.send(transport, run)?;
            }
            match error {
                Some(error) => self.device_lost(&error).await,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Reads one packet into the run, or into the queue if others wait there; false when there is none.
    fn take(&self, transport: &Transport, run: &mut Run, format: Format) -> io::Result<bool> {
        let (read, framed) = if run.is_empty() && transport.waits() {
            let scratch = &mut *self.scratch.borrow_mut();
            let read = self.device.read(&mut scratch.frame)?;
            let framed = match read {
                Read::Packet(len, offload) if is_ipv6(&scratch.frame[..len]) => {
                    transport.push(&scratch.frame[..len], offload);
                    true
                }
                _ => false,
            };
            (read, framed)
        } else if format == Format::Segments {
            let read = self.device.read(run.slot())?;
            let framed = match read {
                Read::Packet(len, offload) if is_ipv6(run.slot_packet(len)) => run.commit(len, offload).is_ok(),
                _ => false,
            };
            (read, framed)
        } else {
            let scratch = &mut *self.scratch.borrow_mut();
            let read = self.device.read(&mut scratch.frame)?;
            let framed = match read {
                Read::Packet(len, offload) if is_ipv6(&scratch.frame[..len]) => {
                    run.append(&scratch.frame[..len], offload, format).is_ok()
                }
                _ => false,
            };
            (read, framed)
        };
        if read == Read::Empty {
            return Ok(false);
        }
        if !framed {
            self.counters.borrow_mut().dropped_unusable += 1;
        }
        Ok(true)
    }

    fn send(&self, transport: &Transport, run: &mut Run) -> Result<(), Lost> {
        if run.is_empty() {
            return Ok(());
        }
        transport.send_run(run, &mut self.scratch.borrow_mut().sealing)?;
        run.clear();
        Ok(())
    }

    /// Publishes the status, and tells of a change of state.
    fn report(&self) {
        let status = self.core.borrow().status(self.clock.now());
        let error = (status.code != 0).then(|| json!({"code": status.code, "text": status.text}));
        let mut value = json!({
            "state": status.state.as_str(),
            "peer": *self.peer.borrow(),
            "error": error,
            "text": status.text,
        });
        let changed = *self.told.borrow() != value;
        if changed {
            *self.told.borrow_mut() = value.clone();
            let mut event = value.clone();
            event["next_attempt_in"] = json!(status.next_attempt_in.map(|wait| wait.as_secs_f64()));
            self.events.push("state", event);
        }
        value["next_attempt_in"] = json!(status.next_attempt_in.map(|wait| wait.as_secs_f64()));
        let counters = self.counters.borrow();
        let host = &self.host_counters;
        let transport = self.transport.borrow();
        let out = transport.as_ref().map_or(counters.earlier, |now| counters.earlier.and(&now.totals()));
        value["counters"] = json!({
            "bytes_out": out.bytes, "packets_out": out.packets,
            "bytes_in": host.bytes.get(), "packets_in": host.packets.get(), "host_writes": host.writes.get(),
            "drops": {"queue_full": out.queue.dropped_full, "queue_delay": out.queue.dropped_delay,
                "link_down": counters.dropped_down, "unusable": counters.dropped_unusable + out.unusable,
                "host_refused": host.refused.get()},
            "queue": {"queued": out.queue.queued, "marked": out.queue.marked,
                "longest_wait_ms": out.queue.longest.as_micros() as f64 / 1000.0},
        });
        value["offloads"] = json!(self.device.offloads().names());
        if let Some((version, resumed, format)) = *self.tls.borrow() {
            value["tls"] = json!(version);
            value["resumed"] = json!(resumed);
            value["segments"] = json!(format == Format::Segments);
        }
        *self.status.lock() = value;
    }
}

/// Only IPv6 enters the tunnel (\[MS-IPHTTPS\] 3.1.5.3).
fn is_ipv6(packet: &[u8]) -> bool {
    packet.len() >= 40 && packet[0] >> 4 == 6
}

/// How a link that was up ended.
enum End {
    Lost(Lost),
    Stream(ClientError),
}

impl From<Lost> for End {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Stream(error)
    }
}
