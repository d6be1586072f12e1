//! A process without descriptors left keeps newcomers waiting: it refuses nobody, says why, does not spin, and goes on by
//! itself when others have left.

// A limit of the whole process: nothing else may run in it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use portico_gateway::io::gateway::{Gateway, GatewayDescriptors};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const NEWCOMERS: usize = 60;
const ROOM: usize = 20;

fn server() -> Value {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["da.example.net".to_owned()]).unwrap().self_signed(&key).unwrap();
    json!({
        "workers": 1,
        "iphttps": {
            "authentication": "none", "link_local": "fe80::1", "addresses": ["fd00:1000::1"],
            "prefix": "fd00:1000::/64", "routes": [], "route_lifetime": 1800, "router_lifetime": 0,
            "advertise_interval": 600, "max_sessions": 100, "max_addresses_per_session": 8, "max_handshakes": 100,
            "handshake_timeout": 60.0, "request_timeout": 15.0, "idle_probe": 30.0, "segments": true,
            "queue_bytes": 1 << 20,
        },
        "http": {"paths": [], "max_body": 0, "max_pending": 1, "timeout": 1.0},
        "tls": {"certificate_chain": leaf.pem(), "private_key": key.serialize_pem(), "client_ca": "",
            "ticket_keys": [], "minimum_version": "1.3"},
    })
}

fn counter(gateway: &Gateway, name: &str) -> u64 {
    let stats: Value = serde_json::from_str(&gateway.stats()).unwrap();
    stats["gateway"][name].as_u64().unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn limit_descriptors(count: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a live struct of the right type.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = count as libc::rlim_t;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

fn processor_time() -> Duration {
    // SAFETY: all zero is a valid timespec, and the call fills it.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        assert_eq!(libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time), 0);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn newcomers_wait_while_there_is_no_descriptor() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (_host, queue) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    let queue: OwnedFd = queue.into();
    let descriptors = GatewayDescriptors {
        tunnel: vec![queue],
        nat64: vec![],
        listeners: vec![listener.into()],
        dns_udp: vec![],
        dns_tcp: vec![],
    };
    let gateway = Gateway::start(&server().to_string(), descriptors).ok().unwrap();
    let mut newcomers: Vec<_> =
        (0..NEWCOMERS).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).collect();
    limit_descriptors(std::fs::read_dir("/proc/self/fd").unwrap().count() + ROOM);
    for newcomer in &newcomers {
        newcomer.connect(&address.into()).unwrap();
    }
    until("the counter moves", || counter(&gateway, "descriptors_exhausted") > 1);
    let accepted = counter(&gateway, "accepted");
    assert!(accepted > 0 && accepted < NEWCOMERS as u64, "{accepted} accepted");
    let warnings = gateway.next_events(Duration::ZERO).join("\n");
    assert!(warnings.contains("\"DESCRIPTORS\"") && warnings.contains("raise LimitNOFILE"), "{warnings}");
    let before = processor_time();
    std::thread::sleep(Duration::from_secs(1));
    let spent = processor_time() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} of processor time while nothing can be done");
    // Each one that leaves gives back its own descriptor and the server's.
    newcomers.truncate(NEWCOMERS / 2);
    until("everybody is accepted", || counter(&gateway, "accepted") == NEWCOMERS as u64);
    gateway.close();
}
