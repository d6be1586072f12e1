//! A DNS64 on its own, for tests and benchmarks: `dns64 CONFIG.json ADDRESS:PORT...`.
//!
//! Listens by UDP and TCP on each address, prints `ready` and one `listening ADDRESS:PORT` each, then obeys lines on standard
//! input: `stats` prints the counters as JSON, `flush` or `flush JSON` forgets cached answers, `query JSON` asks as a client
//! would, `configure JSON` takes another configuration, end of file ends it.

use std::io::{BufRead, Write};
use std::net::{TcpListener, UdpSocket};

use portico_gateway::io::dns64::Flush;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: dns64 CONFIG.json ADDRESS:PORT...")?;
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let config = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    let mut output = std::io::stdout();
    for address in arguments {
        let listener = TcpListener::bind(&address).map_err(|error| format!("{address}: {error}"))?;
        let bound = listener.local_addr()?;
        udp.push(UdpSocket::bind(bound).map_err(|error| format!("{bound}: {error}"))?.into());
        tcp.push(listener.into());
        writeln!(output, "listening {bound}")?;
    }
    let dns64 = portico_gateway::io::dns64::spawn(config, udp, tcp)?;
    writeln!(output, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("stats", _) => writeln!(output, "{}", serde_json::to_string(&dns64.stats()?)?)?,
            ("flush", "") => writeln!(output, "{}", dns64.flush(Flush::default())?)?,
            ("flush", json) => writeln!(output, "{}", dns64.flush(json.parse()?)?)?,
            ("query", json) => match dns64.query(json.parse()?) {
                Ok(answer) => writeln!(output, "{answer}")?,
                Err(error) => writeln!(output, "{error}")?,
            },
            ("configure", json) => {
                dns64.configure(serde_json::from_str(json)?)?;
                writeln!(output, "ok")?;
            }
            (other, _) => writeln!(output, "unknown command {other}: use stats, flush, query or configure")?,
        }
        output.flush()?;
    }
    dns64.close();
    Ok(())
}
