//! One client: dials, asks for a tunnel, makes its address, and does what its profile says until the tunnel ends.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portico_gateway::core::iphttps::{MTU, Reconnect};
use portico_gateway::core::time::Now;
use portico_gateway::io::clock::jitter;
use portico_gateway::wire::iphttps_http::{PATH, ResponseParser, emit_request};
use portico_gateway::wire::ndp::{self, Message};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection::{Connection, READ};
use crate::crowd::{Config, Crowd, Redial};
use crate::traffic::{Profile, Traffic, echo_number, echo_request, exchange, exchange_number};

const ICMPV6: u8 = 58;
const UDP: u8 = 17;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// Exchanges that one turn may begin.
const BURST: usize = 64;
/// Unsent bytes above which no new exchange begins: the tunnel itself is the bottleneck.
const MAX_UNSENT: usize = 256 * 1024;
/// The echo that proves that a new tunnel carries packets has a number that no profile uses.
const PROOF: u32 = 0;
/// Short beside what a client may notice of a change of its server, which is measured with it.
const PROOF_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not wanted, or waiting for the next attempt.
    Down,
    Connecting,
    Up,
}

/// How a client leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// With a goodbye.
    Close,
    /// As when the power fails.
    Abort,
}

/// What others may see and change of a client.
pub struct Handle {
    pub index: u32,
    pub phase: Cell<Phase>,
    /// Whether its tunnel has carried an answer.
    pub reachable: Cell<bool>,
    pub address: Cell<Option<Ipv6Addr>>,
    pub profile: RefCell<Rc<Profile>>,
    /// Set to make it leave for good.
    pub leave: Cell<Option<Leave>>,
    pub changed: Notify,
}

enum End {
    Wanted,
    Lost(io::Error),
}

/// A tunnel that is up.
struct Tunnel<'a> {
    crowd: &'a Crowd,
    handle: &'a Handle,
    connection: Connection,
    traffic: Traffic,
    /// The start of a packet.
    rest: Vec<u8>,
    since: Instant,
    /// When the proof is asked for again; None once it came.
    proof: Option<Instant>,
}

fn link_local(index: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80_u128 << 112 | interface_identifier(index))
}

/// Different for each client and unlike those that hosts of the lab use.
fn interface_identifier(index: u32) -> u128 {
    0x0200_5eff_0000_0000 | u128::from(index)
}

/// The life of one client.
pub async fn live(crowd: Rc<Crowd>, handle: Rc<Handle>) {
    let mut reconnect = Reconnect::new();
    loop {
        handle.phase.set(Phase::Connecting);
        crowd.figures.borrow_mut().dialled += 1;
        let attempt = tokio::time::timeout(crowd.config.attempt_timeout(), attempt(&crowd, &handle));
        let failure = match tokio::select! { made = attempt => made, () = told_to_leave(&handle) => break } {
            Ok(Ok((connection, rest, began))) => {
                came_up(&crowd, &handle, &connection, began);
                reconnect.succeeded(crowd.now());
                let end = Tunnel {
                    crowd: &crowd,
                    handle: &handle,
                    connection,
                    traffic: Traffic::default(),
                    rest,
                    since: Instant::now(),
                    proof: None,
                }
                .carry()
                .await;
                handle.phase.set(Phase::Down);
                handle.reachable.set(false);
                handle.address.set(None);
                match end {
                    End::Wanted => break,
                    End::Lost(error) => crowd.figures.borrow_mut().lost.add(&reason(&error)),
                }
                None
            }
            Ok(Err(error)) => Some(reason(&error)),
            Err(_) => Some("timed out".to_owned()),
        };
        handle.phase.set(Phase::Down);
        let was_up = failure.is_none();
        if let Some(reason) = failure {
            crowd.figures.borrow_mut().failed.add(&reason);
        }
        let wait = match (crowd.config.reconnect, was_up) {
            (Redial::Never, _) => break,
            (Redial::AtOnce, true) => Duration::ZERO,
            (Redial::AtOnce, false) => crowd.config.retry(),
            (Redial::Schedule, true) => reconnect.lost(crowd.now(), jitter()),
            (Redial::Schedule, false) => reconnect.failed(crowd.now(), jitter()),
        };
        tokio::select! { () = tokio::time::sleep(wait) => {}, () = told_to_leave(&handle) => break }
    }
    if handle.leave.get().is_some() {
        crowd.figures.borrow_mut().closed += 1;
    }
    handle.phase.set(Phase::Down);
    crowd.left(&handle);
}

async fn told_to_leave(handle: &Handle) {
    while handle.leave.get().is_none() {
        handle.changed.notified().await;
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed by the server".to_owned(),
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

fn came_up(crowd: &Crowd, handle: &Handle, connection: &Connection, began: Instant) {
    let figures = &mut *crowd.figures.borrow_mut();
    figures.came_up += 1;
    figures.resumed += u64::from(connection.resumed());
    figures.until_up.add(began.elapsed());
    handle.phase.set(Phase::Up);
}

/// Everything until the response that opens the tunnel; what came behind it, and when the attempt began.
async fn attempt(crowd: &Crowd, handle: &Handle) -> io::Result<(Connection, Vec<u8>, Instant)> {
    let Config { targets, .. } = &crowd.config;
    let began = Instant::now();
    let target = targets[handle.index as usize % targets.len()];
    let source = crowd.source(handle.index);
    let tls = crowd.tls(handle.index);
    let mut connection = Connection::dial(source, target, Arc::clone(&tls), crowd.name.clone()).await?;
    let mut plain = Vec::new();
    let mut parser = ResponseParser::new();
    let mut asked = false;
    loop {
        connection.ready().await?;
        connection.read(&mut crowd.scratch.borrow_mut()[..READ], &mut plain)?;
        if connection.is_handshaking() {
            continue;
        }
        if !asked {
            asked = true;
            crowd.figures.borrow_mut().handshake.add(began.elapsed());
            let mut request = Vec::new();
            emit_request(&mut request, PATH, &crowd.config.server_name, false);
            connection.push(&request)?;
            connection.flush()?;
        }
        if plain.is_empty() {
            continue;
        }
        let taken = std::mem::take(&mut plain);
        if let Some(finished) = parser.push(&taken).map_err(|error| io::Error::other(format!("{error:?}")))? {
            if !finished.head.is_success() {
                return Err(io::Error::other(format!("HTTP status {}", finished.head.status)));
            }
            return Ok((connection, taken[finished.used..].to_vec(), began));
        }
    }
}

impl Tunnel<'_> {
    async fn carry(mut self) -> End {
        let solicitation = ndp::emit_router_solicitation(link_local(self.handle.index));
        let mut error = self.send(&solicitation).err();
        let mut profile = Rc::clone(&self.handle.profile.borrow());
        self.traffic.start(&profile, self.phase());
        loop {
            if let Some(leave) = self.handle.leave.get() {
                match leave {
                    Leave::Close => self.connection.close(),
                    Leave::Abort => self.connection.abort(),
                }
                return End::Wanted;
            }
            if let Some(error) = error {
                return End::Lost(error);
            }
            let due = self.due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            error = tokio::select! {
                ready = self.connection.ready() => match ready {
                    Ok(()) => self.take().err(),
                    Err(error) => Some(error),
                },
                () = self.handle.changed.notified() => {
                    let wanted = Rc::clone(&self.handle.profile.borrow());
                    if !Rc::ptr_eq(&wanted, &profile) {
                        profile = wanted;
                        self.traffic.start(&profile, self.phase());
                    }
                    None
                }
                () = timer => None,
            };
            if error.is_none() {
                error = self.drive(&profile).err();
            }
        }
    }

    /// A place in the interval, the same for a client each time and spread over all of them.
    fn phase(&self) -> f64 {
        f64::from(self.handle.index.wrapping_mul(0x9e37_79b9)) / f64::from(u32::MAX)
    }

    fn due(&self) -> Option<Instant> {
        let traffic = self.traffic.due().filter(|_| self.handle.address.get().is_some());
        match (traffic, self.proof) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        }
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let figures = &mut *self.crowd.figures.borrow_mut();
        figures.packets_out += 1;
        figures.bytes_out += packet.len() as u64;
        self.connection.push(packet)?;
        self.connection.flush()
    }

    /// Begins what is due.
    fn drive(&mut self, profile: &Profile) -> io::Result<()> {
        let Some(address) = self.handle.address.get() else { return Ok(()) };
        if self.proof.is_some_and(|at| at <= Instant::now()) {
            self.prove(address)?;
        }
        let late = self.traffic.give_up();
        if late > 0 {
            let figures = &mut *self.crowd.figures.borrow_mut();
            match profile {
                Profile::Exchange { .. } => figures.exchange_losses += late,
                _ => figures.ping_losses += late,
            }
        }
        for _ in 0..BURST {
            if self.connection.unsent() > MAX_UNSENT {
                break;
            }
            let Some(number) = self.traffic.next(profile) else { break };
            match profile {
                Profile::Idle => {}
                Profile::Ping { .. } => {
                    self.crowd.figures.borrow_mut().pings += 1;
                    let target = self.crowd.config.ping_target;
                    self.send(&echo_request(address, target, number))?;
                }
                Profile::Exchange { .. } => self.begin(profile, address, number)?,
            }
            if !Traffic::is_closed_loop(profile) {
                break;
            }
        }
        Ok(())
    }

    fn begin(&mut self, profile: &Profile, address: Ipv6Addr, number: u32) -> io::Result<()> {
        let out = &mut *self.crowd.packets.borrow_mut();
        out.clear();
        let (length, count) = exchange(profile, address, self.handle.index, number, out);
        {
            let figures = &mut *self.crowd.figures.borrow_mut();
            figures.exchanges += 1;
            figures.packets_out += u64::from(count);
            figures.bytes_out += out.len() as u64;
        }
        if self.crowd.config.packet_per_record {
            for packet in out.chunks(length) {
                self.connection.push(packet)?;
            }
        } else {
            self.connection.push(out)?;
        }
        self.connection.flush()
    }

    /// Reads once and handles the complete packets.
    fn take(&mut self) -> io::Result<()> {
        let mut plain = std::mem::take(&mut *self.crowd.plain.borrow_mut());
        plain.clear();
        plain.append(&mut self.rest);
        let read = self.connection.read(&mut self.crowd.scratch.borrow_mut()[..READ], &mut plain);
        let mut at = 0;
        let result = read.and_then(|()| {
            while let Some(header) = plain.get(at..at + 40) {
                let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
                if header[0] >> 4 != 6 || length > MTU {
                    return Err(io::Error::other("the stream holds something else than packets of the link"));
                }
                let Some(packet) = plain.get(at..at + length) else { break };
                at += length;
                self.received(packet)?;
            }
            Ok(())
        });
        self.rest = plain[at..].to_vec();
        *self.crowd.plain.borrow_mut() = plain;
        result
    }

    fn received(&mut self, packet: &[u8]) -> io::Result<()> {
        {
            let figures = &mut *self.crowd.figures.borrow_mut();
            figures.packets_in += 1;
            figures.bytes_in += packet.len() as u64;
        }
        match (packet[6], packet.get(40).copied()) {
            (UDP, _) => {
                let number = exchange_number(packet, self.handle.index);
                if let Some(finished) = number.and_then(|number| self.traffic.answered(number)) {
                    self.crowd.figures.borrow_mut().round_trip.add(finished.0);
                }
            }
            (ICMPV6, Some(ECHO_REPLY)) => match echo_number(packet) {
                Some(PROOF) if self.proof.take().is_some() => {
                    self.handle.reachable.set(true);
                    self.crowd.figures.borrow_mut().reachable(self.since.elapsed());
                }
                Some(number) => {
                    if let Some(finished) = self.traffic.answered(number) {
                        self.crowd.figures.borrow_mut().round_trip.add(finished.0);
                    }
                }
                None => {}
            },
            (ICMPV6, Some(ECHO_REQUEST)) => return self.answer_echo(packet),
            (ICMPV6, Some(ROUTER_ADVERTISEMENT | NEIGHBOUR_SOLICITATION)) => return self.discover(packet),
            _ => {}
        }
        Ok(())
    }

    /// The intranet opens the conversation: the manage-out direction.
    fn answer_echo(&mut self, packet: &[u8]) -> io::Result<()> {
        let Some(address) = self.handle.address.get() else { return Ok(()) };
        let mut source = [0; 16];
        source.copy_from_slice(&packet[8..24]);
        let mut message = packet[40..].to_vec();
        message[0] = ECHO_REPLY;
        self.send(&ndp::icmpv6(address, source.into(), 64, &message))
    }

    fn discover(&mut self, packet: &[u8]) -> io::Result<()> {
        let discovery = ndp::parse(packet).map_err(|error| io::Error::other(format!("{error:?}")))?;
        match discovery.message {
            Message::RouterAdvertisement(advertisement) if self.handle.address.get().is_none() => {
                let Some(prefix) = advertisement.prefixes.iter().find(|prefix| prefix.autonomous) else {
                    return Ok(());
                };
                let bits = prefix.prefix.to_bits() & !u128::from(u64::MAX) | interface_identifier(self.handle.index);
                let address = Ipv6Addr::from_bits(bits);
                self.handle.address.set(Some(address));
                let probe = ndp::solicited_node(address);
                self.send(&ndp::emit_neighbour_solicitation(Ipv6Addr::UNSPECIFIED, probe, address))?;
                self.prove(address)
            }
            Message::NeighbourSolicitation { target } if Some(target) == self.handle.address.get() => {
                // A probe of somebody who wants this address comes from the unspecified address.
                let to = if discovery.source.is_unspecified() { ndp::ALL_NODES } else { discovery.source };
                let solicited = !discovery.source.is_unspecified();
                self.send(&ndp::emit_neighbour_advertisement(target, to, target, false, solicited))
            }
            _ => Ok(()),
        }
    }

    fn prove(&mut self, address: Ipv6Addr) -> io::Result<()> {
        self.proof = Some(Instant::now() + PROOF_INTERVAL);
        let target = self.crowd.config.ping_target;
        self.send(&echo_request(address, target, PROOF))
    }
}

impl Crowd {
    /// Time as the reconnect schedule sees it.
    pub fn now(&self) -> Now {
        Now(self.began.elapsed().as_micros() as u64)
    }
}
