//! Sockets, TLS, TUN devices and worker threads.

mod backlog;
pub mod client;
pub mod clock;
pub mod config;
pub mod confine;
pub mod dns64;
pub mod events;
pub mod gateway;
pub mod host;
pub mod nat64;
pub mod outgoing;
pub mod outlet;
pub mod scratch;
pub mod stats;
pub mod tls;
pub mod transport;
pub mod tun;
pub mod vital;
pub mod worker;
