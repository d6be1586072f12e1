//! Sockets, TLS, TUN devices and worker threads.

pub mod dns64;
