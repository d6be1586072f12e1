//! Packets of several tunnels, each in many records and none of them ending where a record ends, one worker.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use portico_gateway::io::gateway::{Gateway, GatewayDescriptors};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

mod common;
use common::{Authority, server, tun};

const TUNNELS: usize = 4;
const PACKETS: u8 = 40;

type Tunnel = BufReader<StreamOwned<ClientConnection, TcpStream>>;

fn dial(port: u16, tls: &Arc<ClientConfig>) -> Tunnel {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("da.example.net").unwrap();
    let mut tunnel = BufReader::new(StreamOwned::new(ClientConnection::new(tls.clone(), name).unwrap(), stream));
    tunnel.get_mut().write_all(b"POST /IPHTTPS HTTP/1.1\r\nHost: da.example.net\r\n\r\n").unwrap();
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        tunnel.read_line(&mut line).unwrap();
    }
    tunnel
}

fn source(tunnel: usize) -> Ipv6Addr {
    Ipv6Addr::from((0xfd00_1000 << 96) | 0xc0 | tunnel as u128)
}

/// A packet without next header, numbered in its first byte, of a length of its own.
fn packet(tunnel: usize, number: u8) -> Vec<u8> {
    let payload = vec![number; 1 + usize::from(number) * 31];
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend(source(tunnel).octets());
    packet.extend("fd00:1::9".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(payload);
    packet
}

#[test]
fn packets_that_straddle_records_of_interleaved_tunnels_arrive_whole() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut host, queue) = tun();
    let descriptors = GatewayDescriptors {
        tunnel: vec![queue],
        nat64: vec![],
        listeners: vec![listener.into()],
        dns_udp: vec![],
        dns_tcp: vec![],
    };
    let gateway = Gateway::start(&server(&authority, "none", 10).to_string(), descriptors).ok().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let tls = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let mut tunnels: Vec<_> = (0..TUNNELS).map(|_| dial(port, &tls)).collect();
    let streams: Vec<Vec<u8>> =
        (0..TUNNELS).map(|tunnel| (0..PACKETS).flat_map(|number| packet(tunnel, number)).collect()).collect();
    let mut sent = [0; TUNNELS];
    let mut turn = 0usize;
    while sent.iter().zip(&streams).any(|(&sent, stream)| sent < stream.len()) {
        for (index, tunnel) in tunnels.iter_mut().enumerate() {
            turn += 1;
            let stream = &streams[index];
            let end = stream.len().min(sent[index] + 1 + (turn * 797) % 2500);
            if end > sent[index] {
                tunnel.get_mut().write_all(&stream[sent[index]..end]).unwrap();
                sent[index] = end;
            }
        }
        // Now and then all at once, otherwise one read after the other.
        if !turn.is_multiple_of(3) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let mut next: HashMap<Ipv6Addr, u8> = HashMap::new();
    let mut buffer = [0; 4096];
    for _ in 0..TUNNELS * usize::from(PACKETS) {
        let count = host.read(&mut buffer).unwrap();
        let got = &buffer[12..count];
        let from = Ipv6Addr::from(<[u8; 16]>::try_from(&got[8..24]).unwrap());
        let number = next.entry(from).or_default();
        let tunnel = (0..TUNNELS).find(|&tunnel| source(tunnel) == from).unwrap();
        assert_eq!(got, packet(tunnel, *number));
        *number += 1;
    }
    let all: usize = streams.iter().map(Vec::len).sum();
    let sessions: Vec<serde_json::Value> = serde_json::from_str(&gateway.sessions(0, 10)).unwrap();
    let counted: u64 = sessions.iter().map(|session| session["bytes_in"].as_u64().unwrap()).sum();
    assert_eq!(counted, all as u64);
    gateway.close();
}
