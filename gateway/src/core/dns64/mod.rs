//! DNS64 (RFC 6147): AAAA answers for hosts that have only IPv4 addresses.

pub mod config;
pub mod name;
pub mod synthesis;
