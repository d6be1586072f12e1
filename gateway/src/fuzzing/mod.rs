//! What fuzz targets, the replay of their corpora and the coverage floor have in common: one function a target.
//!
//! A target takes bytes, drives one parser or one state machine with them and asserts what must hold whatever they are.
//! State machines read a list of steps (packets built or damaged, answers, time) from the bytes with [`input::Input`];
//! each byte string is some list, so that mutated inputs stay meaningful. A target notes the kinds of outcome that it
//! reaches ([`Outcomes`]): the floor of what a corpus must reach is a list of these names.
//!
//! Compiled for tests and behind the feature `fuzzing` only; no released build contains it.

pub mod input;
mod oracle;
mod packets;

mod client;
mod deframer;
mod dns;
mod dns64;
mod headers;
mod http;
mod iphttps;
mod nat64;
mod offloads;
#[cfg(test)]
mod replay;
mod settings;
mod tls;

use std::collections::BTreeSet;
use std::fmt::Debug;

use input::Input;

/// A target: bytes in, kinds of outcome out, a panic for everything that must not be.
pub type Target = fn(&mut Input<'_>, &mut Outcomes);

/// Every target by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("ipv4", headers::ipv4),
    ("ipv6", headers::ipv6),
    ("tcp", headers::tcp),
    ("udp", headers::udp),
    ("icmpv4", headers::icmpv4),
    ("icmpv6", headers::icmpv6),
    ("ndp", headers::ndp),
    ("http_request", http::request),
    ("http_response", http::response),
    ("segment_header", offloads::segment_header),
    ("virtio", offloads::virtio),
    ("segments", offloads::segments),
    ("deframer", deframer::deframer),
    ("dns_message", dns::message),
    ("dns_answer", dns::answer),
    ("certificate", settings::certificate),
    ("config", settings::config),
    ("tls_records", tls::records),
    ("nat64", nat64::nat64),
    ("iphttps", iphttps::iphttps),
    ("client", client::client),
    ("dns64", dns64::dns64),
];

/// Runs one target on one input.
///
/// # Panics
/// When something does not hold that must, or the target does not exist.
pub fn run(name: &str, bytes: &[u8], outcomes: &mut Outcomes) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of the list");
    target(&mut Input::new(bytes), outcomes);
}

/// The kinds of outcome a run reached, as `group.Kind`.
#[derive(Debug, Default)]
pub struct Outcomes {
    kinds: Option<BTreeSet<String>>,
}

impl Outcomes {
    /// Forgets what is noted: for fuzzing, which has coverage of its own.
    pub const fn ignored() -> Self {
        Self { kinds: None }
    }

    pub const fn kept() -> Self {
        Self { kinds: Some(BTreeSet::new()) }
    }

    /// The names so far.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kinds.iter().flatten().map(String::as_str)
    }

    /// Notes the variant of an enum, without what it carries.
    fn note(&mut self, group: &str, kind: &impl Debug) {
        if let Some(kinds) = &mut self.kinds {
            let text = format!("{kind:?}");
            let name: String = text.chars().take_while(char::is_ascii_alphanumeric).collect();
            kinds.insert(format!("{group}.{name}"));
        }
    }

    /// Notes a kind that has no enum.
    fn note_text(&mut self, group: &str, name: &str) {
        if let Some(kinds) = &mut self.kinds {
            kinds.insert(format!("{group}.{name}"));
        }
    }

    /// Notes a result: the variant of its error, or `Ok`.
    fn note_result<T, E: Debug>(&mut self, group: &str, result: &Result<T, E>) {
        match result {
            Ok(_) => self.note_text(group, "Ok"),
            Err(error) => self.note(group, error),
        }
    }
}
