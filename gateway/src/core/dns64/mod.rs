//! DNS64 (RFC 6147): AAAA answers for hosts that have only IPv4 addresses, and a caching forwarder for everything else.
//!
//! [`engine::Engine`] takes clients' queries and servers' answers as bytes and returns [`Action`]s; sockets, clock and
//! random numbers belong to the shell (`io::dns64`).

pub mod answer;
pub mod cache;
pub mod config;
pub mod engine;
pub mod message;
pub mod name;
mod resolver;
pub mod reverse;
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
    Udp { socket: usize },
    Tcp { connection: u64 },
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: SocketAddr,
    pub transport: Transport,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a server, from a port of its own that nobody can guess, or by a TCP connection, and hand what
    /// comes back on it to [`engine::Engine::handle_response`] with the number of the attempt.
    SendUpstream { attempt: u64, server: SocketAddr, tcp: bool, bytes: Vec<u8> },
    /// Nothing more is expected on this attempt: close its socket.
    CancelUpstream { attempt: u64 },
    /// Answer a client.
    Reply { client: Client, bytes: Vec<u8> },
}

/// What the parts of the engine put out.
#[derive(Debug, Default)]
struct Output {
    actions: VecDeque<Action>,
    stats: Stats,
}
