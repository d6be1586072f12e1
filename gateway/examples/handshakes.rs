//! How many handshakes and new tunnels one core carries out, beside what the TLS library alone needs for the handshake.
//!
//! `cargo run --release --example handshakes [rounds] [tunnels in a round]` prints one line of JSON. All are full TLS
//! 1.3 handshakes with certificates on both sides, in turns in one process:
//! * `library`: rustls as it is, both ends in memory, the time of its server end only; `same_cipher`: with the cipher that
//!   the gateway chooses;
//! * `handshakes`: a client connects over TCP, shakes hands, and is told that its first byte is no request; the time of the
//!   gateway's worker, which includes what the kernel does for it;
//! * `tunnels`: a client connects, shakes hands, asks for the tunnel, gets 200, solicits a router and gets its
//!   advertisement, and closes; the same time.
//!
//! Every client has a certificate of its own that the gateway has not seen; `known` is the same with clients that return
//! (without a ticket, which would spare nearly all of it).
//!
//! The figures are those for each second of processor time, medians over the rounds.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portico_gateway::io::gateway::{Gateway, GatewayDescriptors};
use portico_gateway::wire::ndp::emit_router_solicitation;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned, version};
use serde_json::json;

#[path = "../tests/common/mod.rs"]
mod common;
use common::{Authority, server, tun};

/// As in the Python module, which brings its own.
#[cfg(not(feature = "python"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REQUEST: &[u8] =
    b"POST /IPHTTPS HTTP/1.1\r\nHost: da.example.net\r\nContent-Length: 18446744073709551615\r\n\r\n";
/// Clients that connect at the same time.
const CLIENTS: usize = 4;
const WORKER: &str = "portico-worker";

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let rounds = arguments.next().unwrap_or(5);
    let tunnels = arguments.next().unwrap_or(2000);
    let authority = Authority::new();
    let (library_server, known) = (bare_server(&authority), client_config(&authority));
    let mut suites = default_provider();
    suites.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
    let same_cipher = client_with(&authority, suites);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_host, queue) = tun();
    let descriptors = GatewayDescriptors {
        tunnel: vec![queue],
        nat64: vec![],
        listeners: vec![listener.into()],
        dns_udp: vec![],
        dns_tcp: vec![],
    };
    let mut config = server(&authority, "certificates", 100_000);
    config["iphttps"]["max_handshakes"] = json!(512);
    let gateway = Gateway::start(&config.to_string(), descriptors).ok().unwrap();
    let worker = Worker::find();

    let next = AtomicUsize::new(1);
    let (mut library, mut same, mut handshakes, mut first, mut again, mut elapsed) = Default::default();
    for round in 0..=rounds {
        let fresh = || (0..tunnels).map(|_| client_config(&authority)).collect::<Vec<_>>();
        let bare = in_memory(&library_server, &known, tunnels);
        let bare_same = in_memory(&library_server, &same_cipher, tunnels);
        let carry = |clients: &[Arc<ClientConfig>], one: &(dyn Fn(&Arc<ClientConfig>) + Sync)| {
            let begun = (worker.time(), Instant::now(), done(&gateway));
            std::thread::scope(|scope| {
                for part in clients.chunks(clients.len().div_ceil(CLIENTS)) {
                    scope.spawn(move || part.iter().for_each(one));
                }
            });
            while gateway.sessions(0, 1) != "[]" {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(done(&gateway) - begun.2, tunnels as u64, "handshakes that the gateway completed");
            // Somebody takes them all the time where this is more than a measurement.
            while !gateway.next_events(Duration::ZERO).is_empty() {}
            (worker.time() - begun.0, begun.1.elapsed())
        };
        let tunnel = |client: &_| tunnel(port, client, next.fetch_add(1, Ordering::Relaxed));
        let (shaken, _) = carry(&fresh(), &|client| handshake(port, client));
        let (new, at_work) = carry(&fresh(), &tunnel);
        let (old, _) = carry(&vec![known.clone(); tunnels], &tunnel);
        // The first round is for the caches.
        if round > 0 {
            let add = |rates: &mut Vec<f64>, time: Duration| rates.push(tunnels as f64 / time.as_secs_f64());
            add(&mut library, bare);
            add(&mut same, bare_same);
            add(&mut handshakes, shaken);
            add(&mut first, new);
            add(&mut again, old);
            add(&mut elapsed, at_work);
        }
    }
    gateway.close();
    let [library, same, handshakes, first, again, elapsed] =
        [library, same, handshakes, first, again, elapsed].map(median);
    let ratio = |figure: f64| (figure / library * 1000.0).round() / 1000.0;
    println!(
        "{}",
        json!({
            "rounds": rounds,
            "tunnels": tunnels,
            "library_handshakes_per_cpu_second": library.round(),
            "same_cipher_handshakes_per_cpu_second": same.round(),
            "gateway_handshakes_per_cpu_second": handshakes.round(),
            "gateway_tunnels_per_cpu_second": first.round(),
            "gateway_known_tunnels_per_cpu_second": again.round(),
            "gateway_tunnels_per_second": elapsed.round(),
            "ratio_handshakes": ratio(handshakes),
            "ratio_tunnels": ratio(first),
            "ratio_known": ratio(again),
        })
    );
}

/// Handshakes that were completed since the gateway began.
fn done(gateway: &Gateway) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(&gateway.stats()).unwrap();
    stats["gateway"]["handshakes"].as_u64().unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(chain(&authority.pem()).remove(0)).unwrap();
    Arc::new(roots)
}

fn bare_server(authority: &Authority) -> Arc<ServerConfig> {
    let (certificate, key) = authority.issue("da.example.net");
    let verifier = WebPkiClientVerifier::builder(roots(authority)).build().unwrap();
    let config = ServerConfig::builder_with_protocol_versions(&[&version::TLS13]).with_client_cert_verifier(verifier);
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    Arc::new(config.with_single_cert(chain(&certificate), key).unwrap())
}

fn client_config(authority: &Authority) -> Arc<ClientConfig> {
    client_with(authority, default_provider())
}

fn client_with(authority: &Authority, suites: CryptoProvider) -> Arc<ClientConfig> {
    let (certificate, key) = authority.issue("client1");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(suites));
    let config = config.with_protocol_versions(&[&version::TLS13]).unwrap();
    let config = config.with_root_certificates(roots(authority)).with_client_auth_cert(chain(&certificate), key);
    let mut config = config.unwrap();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("da.example.net").unwrap()
}

/// Both ends in memory; the time that the server end took.
fn in_memory(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, count: usize) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..count {
        let mut client = ClientConnection::new(client.clone(), name()).unwrap();
        let mut bytes = Vec::new();
        let begun = own_time();
        let mut server = ServerConnection::new(server.clone()).unwrap();
        spent += own_time() - begun;
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let begun = own_time();
            let mut input = &bytes[..];
            while !input.is_empty() {
                server.read_tls(&mut input).unwrap();
                server.process_new_packets().unwrap();
            }
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            spent += own_time() - begun;
            let mut input = &bytes[..];
            while !input.is_empty() {
                client.read_tls(&mut input).unwrap();
                client.process_new_packets().unwrap();
            }
            bytes.clear();
        }
    }
    spent
}

/// Processor time of this thread.
fn own_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to a live value.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A handshake and no more: what follows is no request, and is answered so.
fn handshake(port: u16, config: &Arc<ClientConfig>) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut tls = StreamOwned::new(ClientConnection::new(config.clone(), name()).unwrap(), stream);
    tls.write_all(b"\0").unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 400 "), "{answer}");
}

/// One tunnel from its connection to its first router advertisement.
fn tunnel(port: u16, config: &Arc<ClientConfig>, number: usize) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut tunnel = StreamOwned::new(ClientConnection::new(config.clone(), name()).unwrap(), stream);
    tunnel.write_all(REQUEST).unwrap();
    let mut plain = Vec::new();
    let accepted =
        until(&mut tunnel, &mut plain, |plain| plain.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4));
    assert!(plain.starts_with(b"HTTP/1.1 200"));
    plain.drain(..accepted);
    tunnel.write_all(&emit_router_solicitation(link_local(number))).unwrap();
    // ICMPv6, router advertisement.
    until(&mut tunnel, &mut plain, |plain| (plain.len() > 40 && plain[6] == 58 && plain[40] == 134).then_some(0));
    tunnel.conn.send_close_notify();
    tunnel.flush().unwrap();
}

fn until(
    tunnel: &mut StreamOwned<ClientConnection, TcpStream>,
    plain: &mut Vec<u8>,
    found: impl Fn(&[u8]) -> Option<usize>,
) -> usize {
    loop {
        if let Some(at) = found(plain) {
            return at;
        }
        let mut piece = [0; 4096];
        let count = tunnel.read(&mut piece).unwrap();
        plain.extend_from_slice(&piece[..count]);
    }
}

/// The link-local address that a tunnel takes for itself.
fn link_local(number: usize) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80 << 112) | 0xc_0000_0000 | number as u128)
}

/// The thread of the gateway that serves the tunnels.
struct Worker(PathBuf);

impl Worker {
    fn find() -> Self {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let mut workers = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).unwrap().starts_with(WORKER));
        Self(workers.next().expect("the gateway has a worker"))
    }

    /// Processor time so far: its own and that of the kernel for it.
    fn time(&self) -> Duration {
        let text = std::fs::read_to_string(self.0.join("schedstat")).unwrap();
        Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
    }
}
