//! What administrators ask of the translator: bindings and sessions, a page at a time.

use std::net::{Ipv4Addr, Ipv6Addr};

use parking_lot::MutexGuard;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shards;
use crate::core::nat64::{BindingInfo, Filter, Nat64, Protocol, SessionInfo, Step};
use crate::core::time::Now;
use crate::io::config::Refused;

/// Places of a table looked at while its shard is locked: packets wait no longer than that takes.
const PLACES: usize = 1024;
const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    #[serde(default)]
    limit: Option<usize>,
    /// What an answer before gave as `next`.
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    client: Option<Ipv6Addr>,
    #[serde(default)]
    protocol: Option<QueryProtocol>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    destination: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum QueryProtocol {
    Tcp,
    Udp,
    Icmp,
}

/// Where a walk over the tables of all shards is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    shard: usize,
    place: usize,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let (shard, place) = text.split_once('.')?;
        Some(Self { shard: shard.parse().ok()?, place: place.parse().ok()? })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.shard, self.place)
    }
}

struct Request {
    limit: usize,
    from: Cursor,
    filter: Filter,
}

impl Request {
    fn parse(text: &str) -> Result<Self, Refused> {
        let query: Query =
            serde_json::from_str(text).map_err(|error| Refused(format!("what is asked for: {error}")))?;
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Refused(format!("limit: {limit} is not from 1 to {MAX_LIMIT}")));
        }
        let from = match &query.after {
            None => Cursor { shard: 0, place: 0 },
            Some(text) => Cursor::parse(text)
                .ok_or_else(|| Refused(format!("after: {text:?} is not what an answer gave as next")))?,
        };
        let protocol = query.protocol.map(|protocol| match protocol {
            QueryProtocol::Tcp => Protocol::Tcp,
            QueryProtocol::Udp => Protocol::Udp,
            QueryProtocol::Icmp => Protocol::Icmp,
        });
        let filter = Filter { client: query.client, protocol, port: query.port, destination: query.destination };
        Ok(Self { limit, from, filter })
    }
}

impl Shards {
    /// Sessions as a JSON object, in an order that stays the same from page to page.
    ///
    /// # Errors
    /// When what is asked for cannot be read.
    pub fn list_sessions(&self, now: Now, text: &str) -> Result<Value, Refused> {
        let request = Request::parse(text)?;
        let (rows, next) = self.walk(&request, |nat, step, out| nat.walk_sessions(now, &request.filter, step, out));
        let total: usize = self.shards.iter().map(|shard| shard.lock().sizes().1).sum();
        let rows: Vec<Value> = rows.iter().map(session).collect();
        Ok(json!({"sessions": rows, "next": next.map(|cursor| cursor.to_string()), "total": total}))
    }

    /// Bindings as a JSON object, as [`Self::list_sessions`].
    ///
    /// # Errors
    /// When what is asked for cannot be read, or names a destination, which bindings do not have.
    pub fn list_bindings(&self, text: &str) -> Result<Value, Refused> {
        let request = Request::parse(text)?;
        if request.filter.destination.is_some() {
            return Err(Refused("destination: bindings have none; ask for sessions".to_owned()));
        }
        let (rows, next) = self.walk(&request, |nat, step, out| nat.walk_bindings(&request.filter, step, out));
        let total: usize = self.shards.iter().map(|shard| shard.lock().sizes().0).sum();
        let rows: Vec<Value> = rows.iter().map(binding).collect();
        Ok(json!({"bindings": rows, "next": next.map(|cursor| cursor.to_string()), "total": total}))
    }

    /// Walks over the tables of the shards; between two steps the packets that wait for a shard have their turn.
    fn walk<T>(
        &self,
        request: &Request,
        step: impl Fn(&Nat64, Step, &mut Vec<T>) -> Option<usize>,
    ) -> (Vec<T>, Option<Cursor>) {
        let mut rows = Vec::new();
        let mut at = request.from;
        while let Some(shard) = self.shards.get(at.shard) {
            if rows.len() == request.limit {
                return (rows, Some(at));
            }
            // The rows are made while nothing is locked but this shard, and room for them before.
            rows.reserve(PLACES.min(request.limit - rows.len()));
            let nat = shard.lock();
            let entries = request.limit - rows.len();
            let next = step(&nat, Step { from: at.place, places: PLACES, entries }, &mut rows);
            MutexGuard::unlock_fair(nat);
            at = next.map_or(Cursor { shard: at.shard + 1, place: 0 }, |place| Cursor { place, ..at });
        }
        (rows, None)
    }
}

fn session(info: &SessionInfo) -> Value {
    json!({
        "protocol": info.protocol.as_str(),
        "client": info.client,
        "client_port": info.client_port,
        "destination": info.remote,
        "destination_ipv6": info.remote_v6,
        "destination_port": info.remote_port,
        "address": info.address,
        "port": info.port,
        "state": info.state,
        "expires_in": info.expires_in,
    })
}

fn binding(info: &BindingInfo) -> Value {
    json!({
        "protocol": info.protocol.as_str(),
        "client": info.client,
        "client_port": info.client_port,
        "address": info.address,
        "port": info.port,
        "sessions": info.sessions,
        "static": info.fixed,
    })
}
