//! DNS64 end to end on loopback: its sockets, a small server of the tests behind it, plain sockets as clients.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use portico_gateway::io::dns64::{self, Handle};

/// Answers A with 10.0.0.4, TXT with more than UDP carries (truncated there), nothing to names that start with "silent", and
/// nothing about AAAA to those that start with "mute".
fn respond(bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(bytes).expect("a query");
    let question = message.queries[0].clone();
    let name = question.name().clone();
    if name.to_ascii().to_lowercase().starts_with("silent") {
        return None;
    }
    if name.to_ascii().to_lowercase().starts_with("mute") && question.query_type() == RecordType::AAAA {
        return None;
    }
    message.metadata.message_type = MessageType::Response;
    match question.query_type() {
        RecordType::A => message.answers.push(Record::from_rdata(name, 300, RData::A(A([10, 0, 0, 4].into())))),
        RecordType::TXT if tcp => {
            let text = TXT::new(vec!["x".repeat(250); 10]);
            message.answers.push(Record::from_rdata(name, 300, RData::TXT(text)));
        }
        RecordType::TXT => message.metadata.truncation = true,
        _ => message.metadata.response_code = ResponseCode::NXDomain,
    }
    Some(message.to_vec().expect("encodes"))
}

/// A server by UDP and TCP; its threads end with the process.
fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let socket = UdpSocket::bind(address).expect("the same port");
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = respond(&buffer[..length], false) {
                socket.send_to(&answer, client).expect("sends");
            }
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let query = read_message(&mut stream).expect("a query");
            write_message(&mut stream, &respond(&query, true).expect("an answer"));
        }
    });
    address.to_string()
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) {
    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).expect("sends");
}

fn start(servers: &[String]) -> (Handle, std::net::SocketAddr) {
    start_with(serde_json::json!({
        "prefix": "fd7c:1a2b:3c4d:7777::/96", "timeout": 1.0, "upstreams": [{"suffix": "", "servers": servers}],
    }))
}

fn start_with(config: serde_json::Value) -> (Handle, std::net::SocketAddr) {
    let listener = TcpListener::bind("[::1]:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let socket = UdpSocket::bind(address).expect("the same port");
    let config = serde_json::from_value(config).expect("valid");
    let handle = dns64::spawn(config, vec![socket.into()], vec![listener.into()]).expect("starts");
    (handle, address)
}

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("encodes")
}

fn client(server: std::net::SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("[::1]:0").expect("a port");
    socket.connect(server).expect("connects");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket
}

fn exchange(socket: &UdpSocket, query: &[u8]) -> Message {
    socket.send(query).expect("sends");
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    Message::from_vec(&buffer[..length]).expect("decodes")
}

#[test]
fn synthesis_truncation_and_tcp_end_to_end() {
    let (handle, address) = start(&[upstream()]);
    let socket = client(address);
    let reply = exchange(&socket, &query(7, "App4.example.", RecordType::AAAA));
    assert_eq!((reply.metadata.id, reply.answers.len()), (7, 1));
    assert_eq!(reply.answers[0].data.to_string(), "fd7c:1a2b:3c4d:7777::a00:4");
    assert_eq!(reply.queries[0].name().to_string(), "App4.example.");
    assert!(exchange(&socket, &query(8, "big.example.", RecordType::TXT)).metadata.truncation);

    // Several queries on one connection, one of them never answered by the server, then the client closes its half.
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    write_message(&mut stream, &query(1, "silent.example.", RecordType::A));
    write_message(&mut stream, &query(2, "big.example.", RecordType::TXT));
    write_message(&mut stream, &query(3, "app4.example.", RecordType::AAAA));
    stream.shutdown(std::net::Shutdown::Write).expect("half closes");
    let mut replies: Vec<Message> =
        (0..3).map(|_| Message::from_vec(&read_message(&mut stream).expect("an answer")).expect("decodes")).collect();
    replies.sort_by_key(|reply| reply.metadata.id);
    assert_eq!(replies[0].metadata.response_code, ResponseCode::ServFail);
    assert_eq!((replies[1].answers.len(), replies[1].metadata.truncation), (1, false));
    assert_eq!(replies[2].answers.len(), 1);
    assert!(read_message(&mut stream).is_err(), "closed after the last answer");

    let stats = handle.stats().expect("runs");
    assert_eq!((stats.engine.queries_udp, stats.engine.queries_tcp, stats.tcp_accepted), (2, 3, 1));
    assert!(stats.engine.upstream_tcp >= 1 && stats.engine.answered_cached >= 2);
    assert!(handle.flush(dns64::Flush::default()).expect("runs") >= 2);
    assert_eq!(handle.stats().expect("runs").engine.cache_entries, 0);
    handle.close();
    assert!(handle.stats().is_err());
    assert!(UdpSocket::bind(address).is_ok(), "the port is free again");
}

#[test]
fn a_closed_port_is_passed_over_at_once() {
    let closed = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let (handle, address) = start(&[closed, upstream()]);
    let before = std::time::Instant::now();
    let reply = exchange(&client(address), &query(1, "app4.example.", RecordType::AAAA));
    assert_eq!(reply.answers.len(), 1);
    assert!(before.elapsed() < Duration::from_millis(250), "{:?}", before.elapsed());
    assert_eq!(handle.stats().expect("runs").engine.upstream_unreachable, 1);
}

#[test]
fn a_server_silent_about_aaaa_does_not_hold_clients_up() {
    // Half of the servers' time would outlast the client.
    let (handle, address) = start_with(serde_json::json!({
        "prefix": "fd7c:1a2b:3c4d:7777::/96", "timeout": 30.0, "only_send_a_query": false,
        "upstreams": [{"suffix": "", "servers": [upstream()]}],
    }));
    let reply = exchange(&client(address), &query(1, "mute.example.", RecordType::AAAA));
    assert_eq!(reply.answers[0].data.to_string(), "fd7c:1a2b:3c4d:7777::a00:4");
    assert_eq!(handle.stats().expect("runs").engine.synthesized_without_aaaa, 1);
}

#[test]
fn one_address_cannot_hold_all_connections() {
    let (handle, address) = start(&[upstream()]);
    let streams: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).expect("connects")).collect();
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while handle.stats().expect("runs").tcp_accepted + handle.stats().expect("runs").tcp_refused < 40 {
        assert!(std::time::Instant::now() < deadline, "all connections are looked at");
        thread::sleep(Duration::from_millis(5));
    }
    let stats = handle.stats().expect("runs");
    assert_eq!((stats.tcp_connections, stats.tcp_refused), (32, 8));
    let mut last = &streams[39];
    assert_eq!(last.read(&mut [0; 1]).expect("closed, not reset"), 0);
}

#[test]
fn descriptors_of_the_wrong_kind_are_named() {
    let listener = TcpListener::bind("[::1]:0").expect("a port");
    let config = serde_json::json!({"prefix": "fd00::/96", "upstreams": [{"suffix": "", "servers": ["10.0.0.1"]}]});
    let config = serde_json::from_value(config).expect("valid");
    let error = dns64::spawn(config, vec![listener.into()], vec![]).err().expect("refused");
    assert!(error.to_string().contains("not a UDP socket"), "{error}");
}
