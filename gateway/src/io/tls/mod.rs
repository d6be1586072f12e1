//! TLS of both ends: configurations, identities, session tickets, the handshake, and the record layer.

pub mod connection;
pub mod failure;
pub mod handshake;
pub mod identity;
mod key_schedule;
pub mod messages;
pub mod plain;
pub mod record_key;
pub mod records;
pub mod setup;
#[cfg(test)]
mod tests;
pub mod tickets;
pub mod verified;

pub use connection::Tls;
