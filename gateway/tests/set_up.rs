//! What the set-up of a tunnel costs on the wire, counted and not timed: what the gateway says at one time goes in one
//! segment, since each is a system call here and a time that the client wakes up there.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use portico_gateway::io::gateway::{Gateway, GatewayDescriptors};
use portico_gateway::wire::ndp::emit_router_solicitation;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

mod common;
use common::{Authority, server, tun};

const REQUEST: &[u8] =
    b"POST /IPHTTPS HTTP/1.1\r\nHost: da.example.net\r\nContent-Length: 18446744073709551615\r\n\r\n";
const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xc);
/// tcpi_data_segs_in in `struct tcp_info` (include/uapi/linux/tcp.h, since Linux 4.6).
const SEGMENTS_AT: usize = 152;

type Tunnel = StreamOwned<ClientConnection, TcpStream>;

struct Scene {
    _gateway: Gateway,
    _host: socket2::Socket,
    port: u16,
    authority: Authority,
}

impl Scene {
    fn new() -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (host, queue) = tun();
        let descriptors = GatewayDescriptors {
            tunnel: vec![queue],
            nat64: vec![],
            listeners: vec![listener.into()],
            dns_udp: vec![],
            dns_tcp: vec![],
        };
        let gateway = Gateway::start(&server(&authority, "certificates", 10).to_string(), descriptors).ok().unwrap();
        Self { _gateway: gateway, _host: host, port, authority }
    }

    fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let (certificate, key) = self.authority.issue("client1");
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots);
        Arc::new(config.with_client_auth_cert(chain, key).unwrap())
    }

    fn dial(&self, config: &Arc<ClientConfig>) -> Tunnel {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("da.example.net").unwrap();
        StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream)
    }
}

/// Reads up to `found`, which says where what was waited for ends.
fn until(tunnel: &mut Tunnel, plain: &mut Vec<u8>, found: impl Fn(&[u8]) -> Option<usize>) {
    loop {
        if let Some(end) = found(plain) {
            plain.drain(..end);
            return;
        }
        let mut piece = [0; 4096];
        let count = tunnel.read(&mut piece).unwrap();
        assert_ne!(count, 0, "the gateway closed the connection");
        plain.extend_from_slice(&piece[..count]);
    }
}

fn accepted(tunnel: &mut Tunnel, plain: &mut Vec<u8>) {
    until(tunnel, plain, |plain| plain.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4));
}

fn advertised(tunnel: &mut Tunnel, plain: &mut Vec<u8>) {
    until(tunnel, plain, |plain| (plain.len() > 40 && plain[6] == 58 && plain[40] == 134).then_some(0));
}

/// Segments with data that a client has got.
fn segments(tunnel: &Tunnel) -> u32 {
    let mut info = [0u8; SEGMENTS_AT + 4];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live buffer.
    let result = unsafe {
        let info = info.as_mut_ptr().cast();
        libc::getsockopt(tunnel.sock.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, &mut len)
    };
    assert_eq!((result, len as usize), (0, info.len()));
    u32::from_ne_bytes(info[SEGMENTS_AT..].try_into().unwrap())
}

#[test]
fn handshake_answer_and_advertisement_take_a_segment_each() {
    let scene = Scene::new();
    // With TLS 1.2 the client waits for the end of the handshake before it asks.
    for (version, expected) in [(&version::TLS13, 3), (&version::TLS12, 4)] {
        let mut tunnel = scene.dial(&scene.client(version));
        let mut plain = Vec::new();
        tunnel.write_all(REQUEST).unwrap();
        accepted(&mut tunnel, &mut plain);
        assert_eq!(plain, b"", "nobody solicited yet");
        tunnel.write_all(&emit_router_solicitation(SOURCE)).unwrap();
        advertised(&mut tunnel, &mut plain);
        assert_eq!(segments(&tunnel), expected, "{version:?}");
    }
}

#[test]
fn an_advertisement_solicited_with_the_request_comes_with_the_answer() {
    let scene = Scene::new();
    let mut tunnel = scene.dial(&scene.client(&version::TLS13));
    let mut plain = Vec::new();
    let request = [REQUEST, &emit_router_solicitation(SOURCE)].concat();
    tunnel.write_all(&request).unwrap();
    accepted(&mut tunnel, &mut plain);
    advertised(&mut tunnel, &mut plain);
    assert_eq!(segments(&tunnel), 2);
}

#[test]
fn the_ticket_is_there_with_the_answer() {
    let scene = Scene::new();
    let client = scene.client(&version::TLS13);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut tunnel = scene.dial(&client);
        tunnel.write_all(REQUEST).unwrap();
        accepted(&mut tunnel, &mut Vec::new());
        assert_eq!(tunnel.conn.handshake_kind(), Some(expected));
    }
}
