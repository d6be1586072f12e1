//! Names that are answered here: addresses under the NAT64 prefixes in ip6.arpa (RFC 6147 section 5.3.1), and ipv4only.arpa,
//! by which clients find the prefixes (RFC 7050, RFC 8880).

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, OpCode, Query as HickoryQuery, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR};
use hickory_proto::rr::{Name as HickoryName, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::answer::Answer;
use super::message::{CLASS_IN, Question, TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_CNAME, TYPE_PTR};
use super::name::Name;
use super::prefix::Mappings;
use super::synthesis::TTL_WITHOUT_SOA;
use crate::core::time::Now;

/// The two addresses of ipv4only.arpa (RFC 7050 section 2.2).
pub const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// The TTL of ipv4only.arpa's records in the DNS, seconds.
const WELL_KNOWN_TTL: u32 = 86_400;
const IPV4ONLY: &[u8] = b"\x08ipv4only\x04arpa\x00";

/// What a question is about, as far as answering it here is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An ordinary name.
    Other,
    /// ipv4only.arpa, A or AAAA.
    Ipv4Only,
    /// The reverse name of one of [`WELL_KNOWN`], in either tree.
    WellKnownReverse,
    /// The reverse name of an address under one of the prefixes.
    Synthesized(Ipv4Addr),
}

/// Sorts a question. `lower` is its name in lower case.
pub fn subject(lower: &Name, question: &Question, mappings: &Mappings) -> Subject {
    if question.class != CLASS_IN {
        return Subject::Other;
    }
    if lower.wire() == IPV4ONLY {
        return if matches!(question.kind, TYPE_A | TYPE_AAAA) { Subject::Ipv4Only } else { Subject::Other };
    }
    let under_prefix = parse_ip6_arpa(lower).and_then(|address| mappings.extract(address));
    let address = under_prefix.or_else(|| parse_in_addr_arpa(lower));
    match (address, under_prefix) {
        (Some(address), _) if question.kind == TYPE_PTR && WELL_KNOWN.contains(&address) => Subject::WellKnownReverse,
        (_, Some(address)) => Subject::Synthesized(address),
        _ => Subject::Other,
    }
}

/// The address of a complete ip6.arpa name (RFC 3596 section 2.5).
fn parse_ip6_arpa(lower: &Name) -> Option<Ipv6Addr> {
    // 32 labels of one digit, "ip6", "arpa" and the root.
    if lower.wire().len() != 32 * 2 + 4 + 5 + 1 || lower.wire()[64..] != *b"\x03ip6\x04arpa\x00" {
        return None;
    }
    let mut bits = 0u128;
    for (index, label) in lower.labels().take(32).enumerate() {
        let &[digit] = label else { return None };
        bits |= u128::from(char::from(digit).to_digit(16)?) << (4 * index);
    }
    Some(bits.into())
}

/// The address of a complete in-addr.arpa name (RFC 1035 section 3.5).
fn parse_in_addr_arpa(lower: &Name) -> Option<Ipv4Addr> {
    lower.wire().ends_with(b"\x07in-addr\x04arpa\x00").then_some(())?;
    let mut octets = [0; 4];
    let mut labels = lower.labels();
    for octet in octets.iter_mut().rev() {
        *octet = std::str::from_utf8(labels.next()?).ok()?.parse().ok()?;
    }
    (labels.next()? == b"in-addr").then_some(octets.into())
}

/// d.c.b.a.in-addr.arpa.
pub fn in_addr_arpa(address: Ipv4Addr) -> Name {
    let [a, b, c, d] = address.octets();
    Name::from_text(&format!("{d}.{c}.{b}.{a}.in-addr.arpa")).unwrap_or(Name::ROOT)
}

/// The answer for the two kinds of names that no server is asked about.
pub fn local_answer(now: Now, question: &Question, subject: Subject, mappings: &Mappings) -> Option<Answer> {
    let mut message = empty_response(question)?;
    let name = hickory_name(&question.name)?;
    match (subject, question.kind) {
        (Subject::Ipv4Only, TYPE_AAAA) => {
            for prefix in mappings.prefixes() {
                message.answers.extend(WELL_KNOWN.map(|address| {
                    Record::from_rdata(name.clone(), TTL_WITHOUT_SOA, RData::AAAA(AAAA(prefix.embed(address))))
                }));
            }
        }
        (Subject::Ipv4Only, _) => message
            .answers
            .extend(WELL_KNOWN.map(|address| Record::from_rdata(name.clone(), WELL_KNOWN_TTL, RData::A(A(address))))),
        (Subject::WellKnownReverse, _) => {
            let target = hickory_name(&Name::parse(IPV4ONLY)?)?;
            message.answers.push(Record::from_rdata(name, WELL_KNOWN_TTL, RData::PTR(PTR(target))));
        }
        // The alias itself is all that is asked for, or all that ANY is told.
        (Subject::Synthesized(address), TYPE_CNAME | TYPE_ANY) => {
            let target = hickory_name(&in_addr_arpa(address))?;
            message.answers.push(Record::from_rdata(name, TTL_WITHOUT_SOA, RData::CNAME(CNAME(target))));
        }
        _ => return None,
    }
    Answer::made(now, message.to_vec().ok()?)
}

/// The answer to a question about a synthesized address: an alias to the IPv4 address' name, and what `target`, the
/// server's answer about that name, says.
pub fn aliased(now: Now, question: &Question, address: Ipv4Addr, target: &Answer) -> Option<Answer> {
    let mut message = target.decode(now)?;
    let mut reply = empty_response(question)?;
    reply.metadata.response_code = message.metadata.response_code;
    let alias = RData::CNAME(CNAME(hickory_name(&in_addr_arpa(address))?));
    reply.answers.push(Record::from_rdata(hickory_name(&question.name)?, TTL_WITHOUT_SOA, alias));
    reply.answers.append(&mut message.answers);
    reply.authorities.append(&mut message.authorities);
    Some(Answer::made(now, reply.to_vec().ok()?)?.told_by(target.server))
}

fn empty_response(question: &Question) -> Option<Message> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = ResponseCode::NoError;
    message.queries.push(HickoryQuery::query(hickory_name(&question.name)?, RecordType::from(question.kind)));
    Some(message)
}

fn hickory_name(name: &Name) -> Option<HickoryName> {
    HickoryName::read(&mut BinDecoder::new(name.wire())).ok()
}

#[cfg(test)]
mod tests {
    use super::super::prefix::Mapping;
    use super::*;

    fn about(text: &str, kind: u16) -> Subject {
        let name = Name::from_text(text).expect("a name");
        let mapping = |prefix: &str, network: &str| Mapping {
            prefix: prefix.parse().expect("a prefix"),
            network: network.parse().expect("a network"),
        };
        let mappings = Mappings::new(vec![
            mapping("fd7c:1a2b:3c4d:6666::/96", "10.9.0.0/16"),
            mapping("fd7c:1a2b:3c4d:7777::/96", "0.0.0.0/0"),
        ]);
        subject(&name.lower(), &Question { name, kind, class: CLASS_IN }, &mappings.expect("valid"))
    }

    #[test]
    fn names_answered_here_are_recognized() {
        let under = "0.0.0.0.0.0.0.0.7.7.7.7.d.4.c.3.b.2.a.1.c.7.d.f.ip6.arpa";
        assert_eq!(
            about(&format!("4.0.0.0.0.0.A.0.{under}"), TYPE_PTR),
            Subject::Synthesized(Ipv4Addr::new(10, 0, 0, 4))
        );
        assert_eq!(
            about(&format!("4.0.0.0.0.0.A.0.{}", under.replacen("7.7.7.7", "6.6.6.6", 1)), TYPE_PTR),
            Subject::Synthesized(Ipv4Addr::new(10, 0, 0, 4))
        );
        assert_eq!(about(&format!("a.a.0.0.0.0.0.c.{under}"), TYPE_PTR), Subject::WellKnownReverse);
        assert_eq!(about("171.0.0.192.in-addr.arpa", TYPE_PTR), Subject::WellKnownReverse);
        assert_eq!(about("IPv4Only.arpa", TYPE_AAAA), Subject::Ipv4Only);
        for other in [
            format!("0.0.0.0.0.a.0.{under}"),
            format!("g.0.0.0.0.0.a.0.{under}"),
            format!("44.0.0.0.0.0.a.0.{under}"),
            "4.0.0.10.in-addr.arpa".into(),
            "171.0.0.192.in-addr.arpa.example".into(),
            "1.171.0.0.192.in-addr.arpa".into(),
            "x.ipv4only.arpa".into(),
        ] {
            assert_eq!(about(&other, TYPE_PTR), Subject::Other, "{other}");
        }
    }
}
