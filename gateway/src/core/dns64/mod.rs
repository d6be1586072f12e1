//! DNS64 (RFC 6147): AAAA answers for hosts that have only IPv4 addresses, and a caching forwarder for everything else.
//!
//! [`engine::Engine`] takes clients' queries and servers' answers as bytes and returns [`Action`]s; sockets, clock and
//! random numbers belong to the shell (`io::dns64`).

pub mod answer;
pub mod cache;
mod chain;
pub mod config;
pub mod engine;
mod forms;
mod jobs;
pub mod message;
pub mod name;
pub mod prefix;
mod rate;
mod resolver;
pub mod reverse;
mod secret;
pub mod servers;
pub mod stats;
pub mod synthesis;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;

use stats::Stats;

/// How a client's query came in, and how its answer goes out. The numbers are the shell's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp {
        socket: usize,
    },
    Tcp {
        connection: u64,
    },
    /// The administrator, past the network and its limits; the answer is an [`Action::Report`].
    Local {
        ticket: u64,
    },
    /// Nobody: an answer is asked for before it expires.
    Nobody,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: SocketAddr,
    pub transport: Transport,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Udp,
    Tcp,
    /// By a connection that no question has found waiting: the one before may wait behind what never comes.
    NewTcp,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a server, from a port of its own that nobody can guess, or by a TCP connection, and hand what
    /// comes back on it to [`engine::Engine::handle_response`] with the number of the attempt.
    SendUpstream { attempt: u64, server: SocketAddr, way: Way, bytes: Vec<u8> },
    /// Nothing more is expected on this attempt: close its socket.
    CancelUpstream { attempt: u64 },
    /// Answer a client.
    Reply { client: Client, bytes: Vec<u8> },
    /// Answer the administrator, and tell where the answer came from.
    Report { ticket: u64, bytes: Vec<u8>, report: Report },
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Made here without any server: well-known names and refusals.
    #[default]
    Local,
    Cache,
    /// From the cache although expired, as no server answers (RFC 8767).
    Stale,
    Upstream,
}

/// How an answer came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub source: Source,
    /// Its AAAA records were made of A records.
    pub synthesized: bool,
    /// The server whose answer it is or is made of, now or when it was kept.
    pub server: Option<SocketAddr>,
    /// What servers were asked for it.
    pub asked: Vec<Asked>,
}

/// One question that servers were asked, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub name: name::Name,
    pub kind: u16,
    /// Who answered; `None` when nobody did.
    pub server: Option<SocketAddr>,
    pub rcode: u16,
}

/// What the parts of the engine put out.
#[derive(Debug, Default)]
struct Output {
    actions: VecDeque<Action>,
    stats: Stats,
}
