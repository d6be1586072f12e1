//! What opening records costs when each holds one packet: here, and in the TLS library by its own record layer.
//!
//! `cargo run --release --example records [bytes of a packet] [rounds]` prints one line of JSON: nanoseconds for each
//! record, medians over the rounds, both in turns. For instructions instead of time, run one of the two under callgrind:
//! `valgrind --tool=callgrind --toggle-collect='*open_here*' target/release/examples/records 1280 3` (or `*open_there*`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use portico_gateway::io::tls::Tls;
use portico_gateway::io::tls::plain::PlainBuffer;
use portico_gateway::io::tls::records::sealed_len;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use serde_json::json;

// Its queue is for tests of whole gateways.
#[allow(dead_code)]
#[path = "../tests/common/mod.rs"]
mod common;
use common::Authority;

/// As in the Python module, which brings its own.
#[cfg(not(feature = "python"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Records of one read.
const RECORDS: usize = 128;
/// Reads of one round.
const READS: usize = 100;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let len: usize = arguments.next().unwrap_or(1280);
    let rounds: usize = arguments.next().unwrap_or(21);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let authority = Authority::new();
    let (server, client) = configs(&authority);
    let (mut sealer, mut opener) = (dial(&client), Tls::server(server.clone()).unwrap());
    shake(&mut sealer, |cipher, out| {
        opener.receive(cipher, &mut PlainBuffer::new(4096), out).map(|received| received.consumed).unwrap()
    });
    let mut library_sealer = dial(&client);
    let mut library = UnbufferedServerConnection::new(server).unwrap();
    shake(&mut library_sealer, |cipher, out| process(&mut library, cipher, &mut Vec::new(), out));
    let mut plain = PlainBuffer::new(RECORDS * (len + 64));
    let mut library_plain = Vec::with_capacity(RECORDS * len);
    for _ in 0..rounds {
        let mut time = Duration::ZERO;
        for _ in 0..READS {
            let mut cipher = sealed(&mut sealer, len);
            let begun = Instant::now();
            open_here(&mut opener, &mut cipher, &mut plain);
            time += begun.elapsed();
            assert_eq!(plain.len(), RECORDS * len);
        }
        ours.push(time);
        let mut time = Duration::ZERO;
        for _ in 0..READS {
            let mut cipher = sealed(&mut library_sealer, len);
            let begun = Instant::now();
            open_there(&mut library, &mut cipher, &mut library_plain);
            time += begun.elapsed();
            assert_eq!(library_plain.len(), RECORDS * len);
        }
        theirs.push(time);
    }
    let each = |mut times: Vec<Duration>| {
        times.sort();
        (times[times.len() / 2].as_nanos() as f64 / (RECORDS * READS) as f64).round()
    };
    println!("{}", json!({"bytes": len, "rounds": rounds, "ns_here": each(ours), "ns_library": each(theirs)}));
}

#[inline(never)]
fn open_here(opener: &mut Tls, cipher: &mut [u8], plain: &mut PlainBuffer) {
    plain.clear();
    opener.receive(cipher, plain, &mut Vec::new()).unwrap();
}

#[inline(never)]
fn open_there(opener: &mut UnbufferedServerConnection, cipher: &mut [u8], plain: &mut Vec<u8>) {
    plain.clear();
    process(opener, cipher, plain, &mut Vec::new());
}

/// The library's own way through one read; the number of bytes used.
fn process(
    connection: &mut UnbufferedServerConnection,
    cipher: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> usize {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(&mut cipher[used..]);
        let mut waits = false;
        match state.unwrap() {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    plain.extend_from_slice(record.unwrap().payload);
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let start = out.len();
                out.resize(start + 16_384, 0);
                let len = data.encode(&mut out[start..]).unwrap();
                out.truncate(start + len);
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            _ => waits = true,
        }
        used += discard;
        if waits {
            return used;
        }
    }
}

fn sealed(sealer: &mut Tls, len: usize) -> Vec<u8> {
    let packet = vec![0x60; len];
    let mut cipher = vec![0; RECORDS * sealed_len(len)];
    let mut end = 0;
    for _ in 0..RECORDS {
        end += sealer.seal(&packet, &mut cipher[end..]).unwrap();
    }
    cipher.truncate(end);
    cipher
}

fn configs(authority: &Authority) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let (chain, key) = authority.issue("da.example.net");
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_protocol_versions(&[&version::TLS13]);
    let mut server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
    server.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_protocol_versions(&[&version::TLS13]);
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

fn dial(config: &Arc<ClientConfig>) -> Tls {
    Tls::client(config.clone(), ServerName::try_from("da.example.net").unwrap()).unwrap()
}

/// Shakes hands with a server that is given its bytes and says how many it used.
fn shake(client: &mut Tls, mut server: impl FnMut(&mut [u8], &mut Vec<u8>) -> usize) {
    let (mut up, mut down, mut plain) = (Vec::new(), Vec::new(), PlainBuffer::new(4096));
    for _ in 0..6 {
        let received = client.receive(&mut down, &mut plain, &mut up).unwrap();
        down.drain(..received.consumed);
        let used = server(&mut up, &mut down);
        up.drain(..used);
    }
    assert!(!client.is_handshaking());
}
