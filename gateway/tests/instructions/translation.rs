//! NAT64 and DNS64 on their own.

use std::net::SocketAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use portico_gateway::core::dns64::engine::Engine;
use portico_gateway::core::dns64::{Action, Client, Transport};
use portico_gateway::core::frame::{Frame, HEADROOM, Offload};
use portico_gateway::core::nat64::{Config, Nat64, PoolEntry, Prefix, Verdict};
use portico_gateway::wire::tcp;
use serde_json::json;

use crate::packets::{POOL, client, mapped, tcp4, tcp6, udp4, udp6};
use crate::paths::{NOW, Path, SUPER, TCP_SUPER};

const PLAIN: Offload =
    Offload { kind: portico_gateway::core::frame::SegmentKind::None, segment_size: 0, partial_checksum: false };
const PORTS: u16 = 2000;

struct Translator {
    nat: Nat64,
    buffer: Vec<u8>,
}

impl Translator {
    fn new() -> Self {
        let prefix = Prefix::new("fd00:7777::".parse().unwrap(), 96).unwrap();
        let pool = vec![PoolEntry { address: POOL, first: 10_000, last: 65_000 }];
        let config = Config::new(prefix, pool, "fd00:1000::1".parse().unwrap());
        Self { nat: Nat64::new(config).unwrap(), buffer: vec![0; 70_000] }
    }

    /// Translates one packet; the transport port that its source has afterwards.
    fn pass(&mut self, packet: &[u8], offload: Offload) -> u16 {
        self.buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let mut frame = Frame::new(&mut self.buffer, HEADROOM, HEADROOM + packet.len(), offload);
        let mut sink = |_: &[u8]| {};
        let verdict = match packet[0] >> 4 {
            6 => self.nat.from_v6(NOW, &mut frame, &mut sink),
            _ => self.nat.from_v4(NOW, &mut frame, &mut sink),
        };
        assert_eq!(verdict, Verdict::Forward);
        let ports = &frame.bytes()[if packet[0] >> 4 == 6 { 20 } else { 40 }..];
        u16::from_be_bytes([ports[0], ports[1]])
    }
}

pub fn nat64() -> Vec<Path<'static>> {
    let ends = (client(0), mapped());
    let up = (40_000, 80);
    let path = |name, packet: Vec<u8>, offload, answered: bool| -> Path<'static> {
        let mut translator = Translator::new();
        let tcp_port = translator.pass(&tcp6(ends, up, 0, tcp::SYN, 0), PLAIN);
        translator.pass(&tcp4((80, tcp_port), tcp::SYN | tcp::ACK, 0), PLAIN);
        translator.pass(&tcp6(ends, up, 1, tcp::ACK, 0), PLAIN);
        let udp_port = translator.pass(&udp6(ends, up, 100), PLAIN);
        let mut packet = packet;
        if answered {
            // Made for port 0; the checksum is not looked at, since the translation only adjusts it.
            let port = if packet[9] == 6 { tcp_port } else { udp_port };
            packet[22..24].copy_from_slice(&port.to_be_bytes());
        }
        let call = move || {
            for _ in 0..32 {
                translator.pass(&packet, offload);
            }
        };
        (name, 32, Box::new(call))
    };
    vec![
        path("NAT64 to IPv4: small packet", udp6(ends, up, 152), PLAIN, false),
        path("NAT64 to IPv4: super-segment", tcp6(ends, up, 1, tcp::ACK, SUPER), TCP_SUPER, false),
        path("NAT64 to IPv6: small packet", udp4((80, 0), 152), PLAIN, true),
        path("NAT64 to IPv6: super-segment", tcp4((80, 0), tcp::ACK, SUPER), TCP_SUPER, true),
    ]
}

/// Small packets of so many bindings in turn, both ways.
pub fn bindings(names: (&'static str, &'static str), count: usize) -> Vec<Path<'static>> {
    let make = || {
        let mut translator = Translator::new();
        let up: Vec<_> = (0..count)
            .map(|number| {
                let port = 1024 + (number % usize::from(PORTS)) as u16;
                udp6((client(number / usize::from(PORTS)), mapped()), (port, 80), 152)
            })
            .collect();
        let down: Vec<_> = up.iter().map(|packet| udp4((80, translator.pass(packet, PLAIN)), 152)).collect();
        (translator, up, down)
    };
    let call = |name, packets: Vec<Vec<u8>>, mut translator: Translator| -> Path<'static> {
        let mut next = 0;
        let call = move || {
            for _ in 0..32 {
                next = (next + 7919) % packets.len();
                translator.pass(&packets[next], PLAIN);
            }
        };
        (name, 32, Box::new(call))
    };
    let (one, up, _) = make();
    let (other, _, down) = make();
    vec![call(names.0, up, one), call(names.1, down, other)]
}

/// A synthesized answer from the cache.
pub fn dns64() -> Vec<Path<'static>> {
    let config = json!({"prefix": "fd00:7777::/96", "upstreams": [{"suffix": "", "servers": ["10.0.0.53"]}],
        "queries_per_second_per_client": 1_000_000, "query_burst_per_client": 1_000_000});
    let mut state = 1u64;
    let entropy = move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        state
    };
    let mut engine = Engine::new(serde_json::from_value(config).unwrap(), Box::new(entropy));
    let name = Name::from_ascii("app4.corp.example.net.").unwrap();
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), RecordType::AAAA));
    let query = query.to_vec().unwrap();
    let client = Client { address: SocketAddr::from((client(0), 40_000)), transport: Transport::Udp { socket: 0 } };
    let mut reply = Vec::new();
    assert!(!engine.handle_query(NOW, client, &query, &mut reply), "nothing is known yet");
    let Some(Action::SendUpstream { attempt, server, bytes, .. }) = engine.poll_action() else { panic!("no question") };
    let mut answer = Message::from_vec(&bytes).unwrap();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    let asked = answer.queries[0].name().clone();
    answer.add_answer(Record::from_rdata(asked, 3600, RData::A(A::new(10, 0, 0, 4))));
    engine.handle_response(NOW, attempt, server, &answer.to_vec().unwrap());
    while engine.poll_action().is_some() {}
    let call = move || {
        for _ in 0..32 {
            let at_once = engine.handle_query(NOW, client, &query, &mut reply);
            assert!(at_once && reply.len() > query.len() + 16);
        }
    };
    vec![("DNS64: cached answer", 32, Box::new(call))]
}
