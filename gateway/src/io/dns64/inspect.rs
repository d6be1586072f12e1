//! The administrator's questions: JSON in, JSON out.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record, RecordType};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::core::dns64::Report;
use crate::core::dns64::message::{self, CLASS_IN, Question};
use crate::core::dns64::name::Name;

/// Why a request cannot be met.
#[derive(Debug)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// `{"name": null | text, "tree": bool}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlushDocument {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tree: bool,
}

/// What to forget: everything, or what is known about a name, or about it and all names below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flush {
    pub name: Option<Name>,
    pub tree: bool,
}

impl FromStr for Flush {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let document: FlushDocument =
            serde_json::from_str(text).map_err(|error| Refused(format!("dns64_flush: {error}")))?;
        let name = document.name.as_deref().map(name).transpose()?;
        if name.is_none() && document.tree {
            return Err(Refused("dns64_flush: tree needs a name; leave both out to forget everything".to_owned()));
        }
        Ok(Self { name, tree: document.tree })
    }
}

/// `{"name": text, "type": "AAAA", "dnssec": false, "timeout": 5.0}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryDocument {
    name: String,
    #[serde(rename = "type", default = "aaaa")]
    kind: String,
    #[serde(default)]
    dnssec: bool,
    #[serde(default = "five")]
    timeout: f64,
}

fn aaaa() -> String {
    "AAAA".to_owned()
}

fn five() -> f64 {
    5.0
}

/// A question to the engine.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    question: Question,
    dnssec: bool,
    pub timeout: Duration,
}

impl FromStr for Query {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let refused = |why: String| Refused(format!("dns64_query: {why}"));
        let document: QueryDocument = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        if !(0.1..=60.0).contains(&document.timeout) {
            return Err(refused(format!("timeout is {} seconds; give 0.1 to 60", document.timeout)));
        }
        let kind = kind(&document.kind).ok_or_else(|| {
            refused(format!("\"{}\" is not a record type; write AAAA, MX or TYPE65400", document.kind))
        })?;
        let question = Question { name: name(&document.name)?, kind, class: CLASS_IN };
        Ok(Self { question, dnssec: document.dnssec, timeout: Duration::from_secs_f64(document.timeout) })
    }
}

impl Query {
    /// The query as a client would send it.
    pub fn bytes(&self) -> Vec<u8> {
        message::upstream_query(0, &self.question, true, false, Some(self.dnssec))
    }
}

fn name(text: &str) -> Result<Name, Refused> {
    Name::from_presentation(text).ok_or_else(|| {
        Refused(format!(
            "\"{text}\" is not a domain name; write labels of 1 to 63 bytes separated by dots, 253 characters in all"
        ))
    })
}

fn kind(text: &str) -> Option<u16> {
    let upper = text.to_ascii_uppercase();
    match upper.strip_prefix("TYPE") {
        Some(number) => number.parse().ok(),
        None => RecordType::from_str(&upper).ok().map(u16::from),
    }
}

fn kind_text(kind: u16) -> String {
    match RecordType::from(kind) {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// The answer to [`Query`] as JSON: rcode, flags, sections, and where it came from.
pub fn describe(bytes: &[u8], report: &Report, elapsed: Duration) -> Value {
    let server = |server: Option<SocketAddr>| server.map(|server| server.to_string());
    let asked = report.asked.iter().map(|asked| {
        json!({
            "name": asked.name.to_string(),
            "type": kind_text(asked.kind),
            "server": server(asked.server),
            "rcode": rcode_text(asked.rcode),
        })
    });
    let mut value = json!({
        "source": report.source,
        "synthesized": report.synthesized,
        "server": server(report.server),
        "upstream_questions": asked.collect::<Vec<_>>(),
        "elapsed_ms": (elapsed.as_secs_f64() * 1e6).round() / 1e3,
    });
    match Message::from_vec(bytes) {
        Ok(message) => {
            value["rcode"] = rcode_text(u16::from(message.metadata.response_code)).into();
            value["authenticated"] = message.metadata.authentic_data.into();
            value["answers"] = records(&message.answers);
            value["authority"] = records(&message.authorities);
        }
        // Passed on as it came: only the header can be told.
        Err(error) => {
            value["rcode"] = rcode_text(message::u16_at(bytes, 2) & 0xf).into();
            value["authenticated"] = (message::u16_at(bytes, 2) & message::FLAG_AD != 0).into();
            (value["answers"], value["authority"]) = (json!([]), json!([]));
            value["undecodable"] = error.to_string().into();
        }
    }
    value
}

fn records(records: &[Record]) -> Value {
    let record = |record: &Record| {
        json!({
            "name": record.name.to_ascii().trim_end_matches('.'),
            "type": kind_text(u16::from(record.record_type())),
            "ttl": record.ttl,
            "data": data(&record.data),
        })
    };
    records.iter().map(record).collect()
}

/// The data in presentation form; of types that are not decoded, the form of RFC 3597 section 5.
fn data(data: &RData) -> String {
    use fmt::Write;
    match data {
        RData::Unknown { rdata, .. } | RData::NULL(rdata) => {
            let mut text = format!("\\# {}", rdata.anything.len());
            for (index, byte) in rdata.anything.iter().enumerate() {
                // Writing to a string does not fail.
                let _ = write!(text, "{}{byte:02x}", if index == 0 { " " } else { "" });
            }
            text
        }
        data => data.to_string(),
    }
}

/// The names of IANA's registry (RFC 1035, RFC 2136, RFC 6891).
fn rcode_text(rcode: u16) -> String {
    match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        16 => "BADVERS",
        other => return format!("RCODE{other}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_or_refused_with_the_reason() {
        assert!("{}".parse::<Flush>().expect("all").name.is_none());
        let flush: Flush = r#"{"name": "corp.example", "tree": true}"#.parse().expect("a tree");
        assert!(flush.tree && flush.name == Name::from_text("corp.example"));
        for (text, words) in [
            (r#"{"tree": true}"#, "tree needs a name"),
            (r#"{"name": "a..b"}"#, "not a domain name"),
            (r#"{"nam": "x"}"#, "nam"),
        ] {
            let error = text.parse::<Flush>().expect_err(text);
            assert!(error.0.contains(words), "{error}");
        }
        let query: Query = r#"{"name": "a.example", "type": "type28"}"#.parse().expect("a query");
        assert_eq!((query.question.kind, query.timeout), (28, Duration::from_secs(5)));
        for (text, words) in [
            (r#"{"name": "a", "type": "AAAAA"}"#, "not a record type"),
            (r#"{"name": "a", "timeout": 0}"#, "timeout"),
            (r#"{"type": "A"}"#, "name"),
        ] {
            let error = text.parse::<Query>().expect_err(text);
            assert!(error.0.contains(words), "{error}");
        }
    }
}
