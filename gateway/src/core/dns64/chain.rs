//! Aliases in an answer: which records follow from the question, and where other servers are responsible.
//!
//! A server's word counts for the names it was asked about. Records about other names are left out (they are how caches
//! were poisoned before RFC 5452), and an alias that leads under a suffix with servers of its own is followed there, whatever
//! the first server says about it.

use hickory_proto::op::{Message, ResponseCode};

use super::answer::Answer;
use super::message::{
    self, CLASS_IN, Question, RecordAt, Section, TYPE_ANY, TYPE_CNAME, TYPE_DNAME, TYPE_NS, TYPE_SOA,
};
use super::name::Name;
use crate::core::time::Now;

/// Aliases followed in one answer.
const MAX_ALIASES: usize = 32;

/// What an answer is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// For each record of the answer and authority sections, whether it belongs to the question.
    keep: Vec<bool>,
    /// The name at which other servers are to be asked.
    pub cut: Option<Name>,
}

struct Seen {
    at: RecordAt,
    /// In lower case.
    owner: Name,
    /// Of CNAME and DNAME records, in lower case.
    target: Option<Name>,
}

/// Follows the aliases of an answer from its question (name in lower case). `elsewhere` says whether a name has other servers
/// than those that answered. `None` when a name in it cannot be read.
pub fn walk(bytes: &[u8], question: &Question, mut elsewhere: impl FnMut(&Name) -> bool) -> Option<Walk> {
    let records = read(bytes)?;
    let answers = records.iter().filter(|seen| seen.at.section == Section::Answer).count();
    let mut names = vec![question.name];
    let mut cut = None;
    let follows = question.class == CLASS_IN && !matches!(question.kind, TYPE_CNAME | TYPE_DNAME | TYPE_ANY);
    while follows && names.len() <= MAX_ALIASES {
        let current = names[names.len() - 1];
        let Some(next) = next_name(&records[..answers], &current) else { break };
        if names.contains(&next) {
            break;
        }
        if elsewhere(&next) {
            cut = Some(next);
            break;
        }
        names.push(next);
    }
    let belongs = |seen: &Seen| match seen.at.section {
        // What an alias derives from stands above the name it was derived for.
        Section::Answer => names.iter().any(|name| {
            seen.owner == *name || (is_dname_or_its_signature(bytes, &seen.at) && seen.owner.is_above(name))
        }),
        Section::Authority if matches!(seen.at.kind, TYPE_SOA | TYPE_NS) => {
            names.iter().any(|name| seen.owner == *name || seen.owner.is_above(name))
        }
        Section::Authority | Section::Additional => true,
    };
    Some(Walk { keep: records.iter().map(belongs).collect(), cut })
}

fn read(bytes: &[u8]) -> Option<Vec<Seen>> {
    let (_, mut records) = message::question(bytes)?;
    let mut all = Vec::new();
    while records.more() {
        let at = records.next(bytes)?;
        if at.section == Section::Additional {
            break;
        }
        let target = match at.kind {
            TYPE_CNAME | TYPE_DNAME => Some(Name::read(bytes, at.data)?.lower()),
            _ => None,
        };
        all.push(Seen { at, owner: Name::read(bytes, at.start)?.lower(), target });
    }
    Some(all)
}

/// Where a name leads by a CNAME of its own, or by a DNAME above it whose CNAME was left out.
fn next_name(records: &[Seen], name: &Name) -> Option<Name> {
    let alias = records.iter().find(|seen| seen.at.kind == TYPE_CNAME && seen.owner == *name);
    if let Some(alias) = alias {
        return alias.target;
    }
    let redirect = records.iter().find(|seen| seen.at.kind == TYPE_DNAME && seen.owner.is_above(name))?;
    name.moved(&redirect.owner, redirect.target.as_ref()?)
}

/// True for DNAME records and signatures over them (RFC 4034 section 3.1).
fn is_dname_or_its_signature(bytes: &[u8], at: &RecordAt) -> bool {
    const TYPE_RRSIG: u16 = 46;
    at.kind == TYPE_DNAME
        || (at.kind == TYPE_RRSIG && at.end - at.data >= 2 && message::u16_at(bytes, at.data) == TYPE_DNAME)
}

impl Walk {
    /// True when the answer can be passed on as it is.
    pub fn is_whole(&self) -> bool {
        self.cut.is_none() && self.keep.iter().all(|&keep| keep)
    }

    /// True when records were found that do not belong to the question, beside those an alias to other servers replaces.
    pub fn has_strays(&self) -> bool {
        self.cut.is_none() && !self.is_whole()
    }

    /// The answer without what does not belong; where it is cut, the aliases alone. `None` when it cannot be decoded.
    pub fn apply(&self, now: Now, answer: &Answer) -> Option<Answer> {
        let mut message = answer.decode(now)?;
        let mut keep = self.keep.iter().copied();
        message.answers.retain(|_| keep.next().unwrap_or(false));
        message.authorities.retain(|_| keep.next().unwrap_or(false));
        message.additionals.clear();
        if self.cut.is_some() {
            message.authorities.clear();
            message.metadata.response_code = ResponseCode::NoError;
        }
        rebuilt(now, &message, answer)
    }
}

/// The aliases of one answer, and behind them what other servers say about the name they lead to. The question is that of the
/// first. `None` when one cannot be decoded.
pub fn joined(now: Now, aliases: &Answer, rest: &Answer) -> Option<Answer> {
    let (mut message, rest_message) = (aliases.decode(now)?, rest.decode(now)?);
    message.metadata.response_code = rest_message.metadata.response_code;
    message.metadata.authentic_data &= rest_message.metadata.authentic_data;
    message.answers.extend(rest_message.answers);
    message.authorities = rest_message.authorities;
    rebuilt(now, &message, rest)
}

fn rebuilt(now: Now, message: &Message, origin: &Answer) -> Option<Answer> {
    let authenticated = message.metadata.authentic_data;
    Some(Answer::made(now, message.to_vec().ok()?)?.with_authenticated(authenticated).told_by(origin.server))
}

#[cfg(test)]
mod tests {
    use super::super::message::{FLAG_QR, TYPE_A};
    use super::*;

    /// A response whose records are (section, owner, type, data).
    fn response(name: &str, records: &[(Section, &str, u16, &[u8])]) -> Vec<u8> {
        let wire = |text: &str| Name::from_text(text).expect("a name").wire().to_vec();
        let count = |section| records.iter().filter(|record| record.0 == section).count() as u16;
        let counts = [1, count(Section::Answer), count(Section::Authority), count(Section::Additional)];
        let mut bytes: Vec<u8> = [&[7, FLAG_QR], &counts[..]].concat().into_iter().flat_map(u16::to_be_bytes).collect();
        bytes.extend(wire(name));
        bytes.extend([0, 1, 0, 1]);
        for (_, owner, kind, data) in records {
            bytes.extend(wire(owner));
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(*data);
        }
        bytes
    }

    fn about(name: &str) -> Question {
        Question { name: Name::from_text(name).expect("a name"), kind: TYPE_A, class: CLASS_IN }
    }

    #[test]
    fn strays_are_found_and_chains_are_not() {
        let address = &[10, 0, 0, 4][..];
        let bytes = response(
            "a.corp",
            &[
                (Section::Answer, "corp", TYPE_DNAME, b"\x03net\x00"),
                (Section::Answer, "A.corp", TYPE_CNAME, b"\x01a\x03net\x00"),
                (Section::Answer, "a.net", TYPE_A, address),
                (Section::Answer, "bank.example", TYPE_A, address),
                (Section::Authority, "net", TYPE_NS, b"\x02ns\x00"),
                (Section::Authority, "bank.example", TYPE_NS, b"\x02ns\x00"),
            ],
        );
        let walk = walk(&bytes, &about("a.corp"), |_| false).expect("readable");
        assert_eq!(walk.keep, [true, true, true, false, true, false]);
        assert!(walk.has_strays() && walk.cut.is_none());
    }

    #[test]
    fn an_alias_to_other_servers_is_cut_there() {
        let bytes = response(
            "a.corp",
            &[
                (Section::Answer, "a.corp", TYPE_CNAME, b"\x01b\x03net\x00"),
                (Section::Answer, "b.net", TYPE_A, &[10, 0, 0, 4]),
            ],
        );
        let net = Name::from_text("net").expect("a name");
        let walk = walk(&bytes, &about("a.corp"), |name| net.is_above(name)).expect("readable");
        assert_eq!((walk.keep, walk.cut), (vec![true, false], Name::from_text("b.net")));
    }

    #[test]
    fn loops_end_and_unreadable_names_are_refused() {
        let bytes = response(
            "a.corp",
            &[
                (Section::Answer, "a.corp", TYPE_CNAME, b"\x01b\x04corp\x00"),
                (Section::Answer, "b.corp", TYPE_CNAME, b"\x01a\x04corp\x00"),
            ],
        );
        assert!(walk(&bytes, &about("a.corp"), |_| false).expect("readable").is_whole());
        // A DNAME into itself grows the name until it is too long.
        let grows = response("a.corp", &[(Section::Answer, "corp", TYPE_DNAME, b"\x01x\x04corp\x00")]);
        assert!(walk(&grows, &about("a.corp"), |_| false).is_some());
        let mut pointer = response("a.corp", &[(Section::Answer, "a.corp", TYPE_CNAME, b"\xc0\x00")]);
        let last = pointer.len() - 2;
        // A pointer to itself, and one forward.
        for target in [last, last + 1] {
            pointer[last..].copy_from_slice(&(0xc000 | target as u16).to_be_bytes());
            assert!(walk(&pointer, &about("a.corp"), |_| false).is_none());
        }
    }
}
