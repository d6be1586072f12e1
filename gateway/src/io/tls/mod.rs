//! TLS of both ends: configurations, identities, session tickets, and the record layer.

pub mod identity;
pub mod records;
pub mod setup;
pub mod tickets;
