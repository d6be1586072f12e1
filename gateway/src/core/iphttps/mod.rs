//! IP-HTTPS: IPv6 packets in the bodies of one endless HTTP request and its response ([MS-IPHTTPS]).
//!
//! Server side, one direction of use: a [`Session`] turns the first plaintext of a connection into a decision, a
//! [`Deframer`] cuts what follows into packets, and the [`Link`] that all sessions share decides about each packet:
//! neighbour discovery, address ownership, multicast. Client side: [`ClientSession`] with [`Reconnect`].

mod admission;
mod advertise;
mod client;
mod config;
mod counters;
mod deframer;
mod discovery;
mod errors;
mod limiter;
mod link;
mod neighbours;
mod reconnect;
mod session;
#[cfg(test)]
mod tests;

pub use admission::{Place, gives_way};
pub use client::{
    ClientAction, ClientConfig, ClientError, ClientSession, ClientState, ClientStatus, ClientStep, Proxy,
};
pub use config::{ConfigError, LinkConfig, Route};
pub use counters::{LinkCounters, LinkEvent};
pub use deframer::{Deframer, Format, Plaintext, StreamError};
pub use errors::{CloseReason, DropCounters, DropReason};
pub use link::{Attachment, FromClient, FromHost, Link, LinkSink};
pub use neighbours::TableSizes;
pub use reconnect::Reconnect;
pub use session::{
    Action, Admission, HandUp, IllegalTransition, Received, Session, SessionConfig, SessionEvent, SessionState,
};

/// The MTU of the link on both ends (\[MS-IPHTTPS\] 3.1.5.2, 3.2.3.1).
pub const MTU: usize = 1280;

/// A connection as the shell knows it; never used for another connection again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Who a client certificate says the peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Certificate serial number, lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// SHA-256 of the DER-encoded issuer name.
    pub issuer_sha256: [u8; 32],
    /// Common name.
    pub subject: String,
    /// End of validity in seconds since the epoch.
    pub not_after: i64,
}

impl Identity {
    /// Whether both certificates name the same machine: a renewed certificate has another serial number and still
    /// takes its addresses over.
    pub fn same_machine(&self, other: &Self) -> bool {
        self.issuer_sha256 == other.issuer_sha256 && self.subject == other.subject
    }
}

/// Whether clients must show a certificate (\[MS-IPHTTPS\] 3.2.1). The modes also differ in what multicast passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    None,
    Certificates,
}
