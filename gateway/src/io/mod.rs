//! Sockets, TLS, TUN devices and worker threads.

pub mod config;
pub mod dns64;
pub mod events;
pub mod tls;
pub mod tun;
