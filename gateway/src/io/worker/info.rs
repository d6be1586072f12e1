//! What others see of a session: lists and events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::core::iphttps::{CloseReason, DropCounters, Identity};
use crate::io::events::seconds_since_epoch;
use crate::io::stats::Traffic;
use crate::io::tls::identity::{IdentityJson, peer_text};

/// What other threads may see of a session that is up.
#[derive(Debug)]
pub struct SessionInfo {
    pub id: u64,
    pub peer: SocketAddr,
    pub listener: String,
    pub identity: Option<Arc<Identity>>,
    pub tls: &'static str,
    pub resumed: bool,
    pub segments: bool,
    pub since: f64,
    pub traffic: Traffic,
    pub queue_bytes: AtomicUsize,
    /// Packets from the client that the link refused; the worker's own list is copied here when it grows.
    pub link_drops: Mutex<DropCounters>,
}

impl SessionInfo {
    pub fn opened(&self) -> Opened<'_> {
        Opened {
            session: self.id,
            peer: peer_text(self.peer),
            listener: &self.listener,
            identity: self.identity.as_deref().map(IdentityJson::from),
            tls: self.tls,
            resumed: self.resumed,
            segments: self.segments,
        }
    }

    pub fn closed(&self, reason: CloseReason) -> Closed<'_> {
        let traffic = &self.traffic;
        Closed {
            session: self.id,
            reason: reason.as_str(),
            bytes_in: traffic.bytes_in.get(),
            bytes_out: traffic.bytes_out.get(),
            packets_in: traffic.packets_in.get(),
            packets_out: traffic.packets_out.get(),
            drops: Drops(self),
            seconds: seconds_since_epoch() - self.since,
        }
    }

    /// As session lists show it; `addresses` are what the session owns on the link.
    pub fn json(&self, addresses: &[std::net::Ipv6Addr]) -> Value {
        let mut value = json!(self.opened());
        let traffic = &self.traffic;
        value["addresses"] = json!(addresses);
        value["bytes_in"] = json!(traffic.bytes_in.get());
        value["bytes_out"] = json!(traffic.bytes_out.get());
        value["packets_in"] = json!(traffic.packets_in.get());
        value["packets_out"] = json!(traffic.packets_out.get());
        value["drops"] = json!(Drops(self));
        value["since"] = json!(self.since);
        value["queue_bytes"] = json!(self.queue_bytes.load(Ordering::Relaxed));
        value["queue"] = json!({
            "queued": traffic.queued.get(),
            "marked": traffic.marked.get(),
            "longest_wait_ms": traffic.longest_wait.get() as f64 / 1000.0,
        });
        value
    }
}

/// The fields of session_up.
#[derive(Debug, Serialize)]
pub struct Opened<'a> {
    session: u64,
    peer: String,
    listener: &'a str,
    identity: Option<IdentityJson<'a>>,
    tls: &'static str,
    resumed: bool,
    segments: bool,
}

/// The fields of session_down.
#[derive(Debug, Serialize)]
pub struct Closed<'a> {
    session: u64,
    reason: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    packets_in: u64,
    packets_out: u64,
    drops: Drops<'a>,
    seconds: f64,
}

/// Every reason for which a packet of a session went nowhere, with their numbers; what the link never refused is left
/// out.
#[derive(Debug)]
struct Drops<'a>(&'a SessionInfo);

impl Serialize for Drops<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let traffic = &self.0.traffic;
        let own = [
            ("queue_full", traffic.drop_queue_full.get()),
            ("queue_delay", traffic.drop_queue_delay.get()),
            ("unusable", traffic.drop_unusable.get() + traffic.drop_unframeable.get()),
        ];
        let link = self.0.link_drops.lock();
        serializer
            .collect_map(own.into_iter().chain(link.iter().map(|(reason, count)| (reason.as_str(), count.into()))))
    }
}
