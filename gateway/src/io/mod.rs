//! Sockets, TLS, TUN devices and worker threads.
