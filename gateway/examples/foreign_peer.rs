//! An IP-HTTPS client as other implementations are: packets of at most 1280 bytes, each alone in a TLS record.
//! `foreign_peer CONFIG.json DEVICE`, for benchmarks.
//!
//! That is the hardest peer for a gateway, which opens a record, with its fixed costs, for every packet. So that the peer
//! itself is not what is measured, everything else is done as well as the gateway does it: super-segments are read from the
//! kernel and split here, the records of one vector leave in one write, and what arrives is merged before it is written.
//! The configuration is the gateway's of a client tunnel; `segments` and `proxy` are ignored. Makes the TUN device, prints
//! `up` when packets flow, and ends with the connection.

use std::io::{self, Read as _, Write as _};
use std::rc::Rc;
use std::sync::Arc;

use portico_gateway::core::frame::{BUFFER_SIZE, MAX_PACKET};
use portico_gateway::core::iphttps::{ClientConfig as Session, ClientSession, ClientStep, Deframer, Format};
use portico_gateway::core::segments::split::Segments;
use portico_gateway::io::clock::Clock;
use portico_gateway::io::config::{ClientConfig, Url};
use portico_gateway::io::host::{HostWriter, MergingWriter};
use portico_gateway::io::scratch::{READ_LEN, Scratch};
use portico_gateway::io::stats::HostCounters;
use portico_gateway::io::tls::records::sealed_len;
use portico_gateway::io::tls::{Tls, setup};
use portico_gateway::io::tun::{Device, Read};
use rustls::pki_types::ServerName;
use tokio::io::Interest;
use tokio::net::TcpStream;

#[path = "common/tun.rs"]
mod tun;

type Failure = Box<dyn std::error::Error>;

/// Ciphertext after which a vector ends.
const VECTOR: usize = 256 * 1024;
/// A packet alone in its record, and a super-segment of the smallest packets.
const ROOM: usize = VECTOR + 64 * sealed_len(1280) + 2 * MAX_PACKET;

/// The connection: TLS and what it has not dealt with.
struct Connection {
    tls: Tls,
    scratch: Scratch,
    /// Bytes of an unfinished record at the front of `scratch.cipher_in`.
    held: usize,
    /// Sealed records, of which `out[sent..end]` wait for the socket.
    out: Box<[u8]>,
    sent: usize,
    end: usize,
}

impl Connection {
    /// Opens `count` more bytes of ciphertext behind what is held; plaintext is in `scratch.plain_in`.
    fn open(&mut self, count: usize) -> Result<(), Failure> {
        let Scratch { cipher_in, plain_in, control_out, .. } = &mut self.scratch;
        let end = self.held + count;
        let received = self.tls.receive(&mut cipher_in[..end], plain_in, control_out)?;
        cipher_in.copy_within(received.consumed..end, 0);
        self.held = end - received.consumed;
        if received.closed { Err("the server closed the connection".into()) } else { Ok(()) }
    }

    fn seal(&mut self, plain: &[u8]) -> Result<(), rustls::Error> {
        self.end += self.tls.seal(plain, &mut self.out[self.end..])?;
        Ok(())
    }

    fn is_flushed(&self) -> bool {
        self.sent == self.end
    }

    /// Moves what TLS itself has to say behind what is sealed.
    fn take_control(&mut self) {
        let control = &mut self.scratch.control_out;
        self.out[self.end..self.end + control.len()].copy_from_slice(control);
        self.end += control.len();
        control.clear();
    }
}

/// The handshake and the request, in the blocking way. Returns when packets may flow.
fn set_up(stream: &mut std::net::TcpStream, connection: &mut Connection, session: Session) -> Result<(), Failure> {
    let clock = Clock::start();
    let mut core = ClientSession::new(session);
    core.enable(clock.now()).map_err(|error| format!("{error:?}"))?;
    let _ = core.handle_timeout(clock.now(), 0.0);
    let (mut requested, mut out) = (false, Vec::new());
    connection.open(0)?;
    loop {
        stream.write_all(&connection.scratch.control_out)?;
        connection.scratch.control_out.clear();
        if !connection.tls.is_handshaking() && !requested {
            requested = true;
            core.tls_established(&mut out).map_err(|error| format!("{error:?}"))?;
        }
        let plain = connection.scratch.plain_in.bytes();
        if !plain.is_empty() {
            let step = core.received(clock.now(), plain, &mut out).map_err(|error| format!("{error:?}"))?;
            if let ClientStep::LinkUp { used, .. } = step {
                connection.scratch.plain_in.consume(used);
                return Ok(connection.seal(&out)?);
            }
        }
        if !out.is_empty() {
            connection.seal(&out)?;
            stream.write_all(&connection.out[..connection.end])?;
            (connection.end, out) = (0, Vec::new());
        }
        connection.scratch.plain_in.clear();
        let count = stream.read(&mut connection.scratch.cipher_in[connection.held..][..READ_LEN])?;
        if count == 0 {
            return Err("the server closed the connection before the link was up".into());
        }
        connection.open(count)?;
    }
}

/// Moves packets until the connection ends.
async fn pump(stream: TcpStream, device: Rc<Device>, mut connection: Connection) -> Result<(), Failure> {
    let mut host = MergingWriter::new(HostWriter::new(device.clone(), Arc::new(HostCounters::default())));
    let mut deframer = Deframer::new(Format::Packets);
    let mut packet = vec![0; BUFFER_SIZE].into_boxed_slice();
    loop {
        // What came with the last read goes to the host; the first time that is what came behind the response.
        let mut input = connection.scratch.plain_in.input();
        while let Some(mut frame) = deframer.next(&mut input).map_err(|error| format!("{error:?}"))? {
            host.push(&mut frame);
        }
        host.flush();
        connection.scratch.plain_in.clear();
        let interest = match connection.is_flushed() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        tokio::select! {
            ready = stream.ready(interest) => { ready?; }
            ready = device.readable(), if connection.is_flushed() => ready?,
        }
        let Connection { scratch, held, .. } = &mut connection;
        match stream.try_read(&mut scratch.cipher_in[*held..][..READ_LEN]) {
            Ok(0) => return Err("the server closed the connection".into()),
            Ok(count) => connection.open(count)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if connection.is_flushed() {
            (connection.sent, connection.end) = (0, 0);
            connection.take_control();
            read_vector(&device, &mut packet, &mut connection)?;
        }
        match stream.try_write(&connection.out[connection.sent..connection.end]) {
            Ok(count) => connection.sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Seals what the host has, one packet in a record.
fn read_vector(device: &Device, packet: &mut [u8], connection: &mut Connection) -> Result<(), Failure> {
    let mut one = [0; 1500];
    while connection.end < VECTOR {
        match device.read(packet)? {
            Read::Empty => break,
            Read::Packet(len, offload) if packet[0] >> 4 == 6 => {
                let mut pieces = Segments::new(&packet[..len], offload).map_err(|error| format!("{error:?}"))?;
                while let Some(len) = pieces.next_into(&mut one).map_err(|error| format!("{error:?}"))? {
                    connection.seal(&one[..len])?;
                }
            }
            Read::Packet(..) | Read::Unusable(_) => {}
        }
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, name] = arguments.as_slice() else {
        return Err("usage: foreign_peer CONFIG.json DEVICE".into());
    };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let config = ClientConfig::parse(&text)?;
    let url = Url::parse(&config.url)?;
    let address = config.addresses.first().ok_or("the configuration needs an address in `addresses`")?;
    let tls = Tls::client(setup::client(&config)?, ServerName::try_from(url.host.clone())?)?;
    let session = Session {
        host: url.host,
        port: url.port,
        path: url.path,
        proxy: None,
        link_local: config.link_local,
        segments: false,
        connect_timeout: std::time::Duration::from_secs(10),
    };
    let mut connection = Connection {
        tls,
        scratch: Scratch::default(),
        held: 0,
        out: vec![0; ROOM].into_boxed_slice(),
        sent: 0,
        end: 0,
    };
    let fd = tun::open(name).map_err(|error| format!("{name}: {error}"))?;
    let mut stream = std::net::TcpStream::connect((*address, session.port))?;
    stream.set_nodelay(true)?;
    set_up(&mut stream, &mut connection, session)?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let (stream, device) = (TcpStream::from_std(stream)?, Rc::new(Device::new(fd)?));
    println!("up");
    runtime.block_on(pump(stream, device, connection))
}
