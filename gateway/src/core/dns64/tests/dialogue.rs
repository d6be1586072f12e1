//! The other ends of the engine: a client and servers, in words of `hickory_proto`.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, NULL, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::core::dns64::config::Config;
use crate::core::dns64::engine::Engine;
use crate::core::dns64::stats::Stats;
use crate::core::dns64::{Action, Client, Report, Transport, Way};
use crate::core::time::Now;

/// What a server was sent.
#[derive(Debug)]
pub struct Sent {
    pub attempt: u64,
    pub server: SocketAddr,
    pub tcp: bool,
    pub bytes: Vec<u8>,
    pub message: Message,
}

impl Sent {
    pub fn kind(&self) -> RecordType {
        self.message.queries[0].query_type()
    }
}

pub struct Dialogue {
    pub engine: Engine,
    pub now: Now,
    sent: VecDeque<Sent>,
    replies: VecDeque<Vec<u8>>,
    reports: VecDeque<(Vec<u8>, Report)>,
}

pub fn config(change: &str) -> Config {
    let mut document = serde_json::json!({
        "prefix": "fd7c:1a2b:3c4d:7777::/96",
        "upstreams": [{"suffix": "", "servers": ["10.0.0.53", "10.0.0.54"]}],
    });
    let change: serde_json::Value = serde_json::from_str(change).expect("JSON");
    if change.get("prefix_mappings").is_some() {
        document.as_object_mut().expect("object").remove("prefix");
    }
    document.as_object_mut().expect("object").extend(change.as_object().expect("object").clone());
    serde_json::from_value(document).expect("a valid configuration")
}

impl Dialogue {
    pub fn new(change: &str) -> Self {
        // Numbers that look random and repeat from run to run (splitmix64).
        let mut state = 1u64;
        let entropy = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^ (mixed >> 27)
        };
        let engine = Engine::new(config(change), Box::new(entropy));
        Self {
            engine,
            now: Now::from_secs(1000),
            sent: VecDeque::new(),
            replies: VecDeque::new(),
            reports: VecDeque::new(),
        }
    }

    pub fn configure(&mut self, change: &str) {
        self.engine.configure(self.now, config(change));
        self.collect();
    }

    pub fn client(host: u16) -> SocketAddr {
        SocketAddr::from(([0xfd7c, 0x1a2b, 0x3c4d, 0x1000, 0, 0, 0, host], 40_000))
    }

    pub fn query(&mut self, message: &Message) {
        self.raw_query(1, &message.to_vec().expect("encodes"));
    }

    pub fn query_tcp(&mut self, message: &Message) {
        let client = Client { address: Self::client(1), transport: Transport::Tcp { connection: 1 } };
        self.take(client, &message.to_vec().expect("encodes"));
    }

    pub fn query_from(&mut self, address: &str, message: &Message) {
        let address = SocketAddr::new(address.parse().expect("an address"), 40_000);
        let client = Client { address, transport: Transport::Udp { socket: 0 } };
        self.take(client, &message.to_vec().expect("encodes"));
    }

    pub fn query_locally(&mut self, message: &Message) {
        let address = SocketAddr::from(([0; 16], 0));
        let client = Client { address, transport: Transport::Local { ticket: 1 } };
        self.take(client, &message.to_vec().expect("encodes"));
    }

    fn take(&mut self, client: Client, bytes: &[u8]) {
        let mut answer = Vec::new();
        if self.engine.handle_query(self.now, client, bytes, &mut answer) {
            self.replies.push_back(answer);
        }
        self.collect();
    }

    pub fn report(&mut self) -> (Message, Report) {
        let (bytes, report) = self.reports.pop_front().expect("a report");
        (Message::from_vec(&bytes).expect("decodes"), report)
    }

    pub fn raw_query(&mut self, host: u16, bytes: &[u8]) {
        let client = Client { address: Self::client(host), transport: Transport::Udp { socket: 0 } };
        self.take(client, bytes);
    }

    pub fn answer(&mut self, asked: &Sent, message: &Message) {
        self.raw_answer(asked.attempt, asked.server, &message.to_vec().expect("encodes"));
    }

    pub fn raw_answer(&mut self, attempt: u64, server: SocketAddr, bytes: &[u8]) {
        self.engine.handle_response(self.now, attempt, server, bytes);
        self.collect();
    }

    pub fn unreachable(&mut self, asked: &Sent) {
        self.engine.handle_unreachable(self.now, asked.attempt);
        self.collect();
    }

    /// Lets time pass, stopping at every timer as a shell does.
    pub fn pass(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while let Some(at) = self.engine.next_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    pub fn sent(&mut self) -> Sent {
        self.sent.pop_front().expect("a question to a server")
    }

    pub fn try_sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    pub fn nothing_sent(&self) {
        assert!(self.sent.is_empty(), "unexpected: {:?}", self.sent);
    }

    pub fn forget_sent(&mut self) {
        self.sent.clear();
    }

    pub fn raw_reply(&mut self) -> Vec<u8> {
        self.replies.pop_front().expect("an answer to the client")
    }

    pub fn reply(&mut self) -> Message {
        Message::from_vec(&self.raw_reply()).expect("decodes")
    }

    pub fn try_reply(&mut self) -> Option<Message> {
        self.replies.pop_front().map(|bytes| Message::from_vec(&bytes).expect("decodes"))
    }

    pub fn no_reply(&self) {
        assert!(self.replies.is_empty(), "unexpected answer");
    }

    pub fn stats(&self) -> Stats {
        self.engine.stats(self.now)
    }

    fn collect(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::SendUpstream { attempt, server, way, bytes } => {
                    let tcp = way != Way::Udp;
                    let message = Message::from_vec(&bytes).expect("decodes");
                    self.sent.push_back(Sent { attempt, server, tcp, bytes, message });
                }
                Action::CancelUpstream { .. } => {}
                Action::Reply { bytes, .. } => self.replies.push_back(bytes),
                Action::Report { bytes, report, .. } => self.reports.push_back((bytes, report)),
            }
        }
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).expect("a name")
}

pub fn query(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(name(text), kind));
    message
}

pub fn set_edns(message: &mut Message, payload: u16, dnssec_ok: bool) {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
    message.edns = Some(edns);
}

pub fn error(asked: &Sent, code: ResponseCode) -> Message {
    let mut message = asked.message.clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.authentic_data = false;
    message.metadata.response_code = code;
    message
}

pub fn answer(asked: &Sent, records: Vec<Record>) -> Message {
    let mut message = error(asked, ResponseCode::NoError);
    message.answers = records;
    message
}

/// NXDOMAIN or no data, with the SOA of the name's last label, its TTL and MINIMUM `minimum`.
pub fn negative(asked: &Sent, code: ResponseCode, minimum: Option<u32>) -> Message {
    let mut message = error(asked, code);
    let zone = asked.message.queries[0].name().trim_to(1);
    message.authorities.extend(minimum.map(|minimum| {
        let soa = SOA::new(name("ns.example"), name("root.example"), 1, 3600, 600, 86_400, minimum);
        Record::from_rdata(zone, minimum, RData::SOA(soa))
    }));
    message
}

pub fn a(owner: &str, ttl: u32, address: Ipv4Addr) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(address)))
}

pub fn aaaa(owner: &str, ttl: u32, address: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::AAAA(AAAA(address.parse().expect("an address"))))
}

pub fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

pub fn name_server(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::NS(NS(name(target))))
}

pub fn pointer(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::PTR(PTR(name(target))))
}

/// A DNAME record; `target` in wire form.
pub fn redirect(owner: &str, ttl: u32, target: &[u8]) -> Record {
    let rdata = NULL::with(target.to_vec());
    Record::from_rdata(name(owner), ttl, RData::Unknown { code: RecordType::DNAME, rdata })
}

/// TTL, type and data of the answer section.
pub fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| format!("{} {} {}", record.ttl, record.record_type(), record.data)).collect()
}
