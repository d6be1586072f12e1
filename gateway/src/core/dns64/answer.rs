//! Answers as they are kept: the server's bytes without the hop's own parts (id, flags, OPT), ready to be sent to anybody.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::Message;

use super::message::{
    self, CLASS_IN, FLAG_AD, FLAG_QR, FLAG_RA, FLAG_RD, FLAG_TC, HEADER, NOERROR, NXDOMAIN, Query, Question, SERVFAIL,
    Section, TYPE_AAAA, TYPE_ANY, TYPE_CNAME, TYPE_DNAME, TYPE_NS, TYPE_OPT, TYPE_SOA, TYPE_TSIG, u16_at, u32_at,
};
use crate::core::time::Now;

/// The longest a positive answer is kept, seconds.
const MAX_TTL: u32 = 86_400;
/// The longest a negative answer is kept, seconds (RFC 2308 section 5: one to three hours).
const MAX_NEGATIVE_TTL: u32 = 10_800;
/// Answers that live shorter are asked for again when they have expired, seconds.
const SHORTEST_PREFETCHED: u32 = 10;
/// The TTL that an expired answer is given out with, seconds (RFC 8767 section 5.2).
pub const STALE_TTL: u32 = 30;
/// Extended DNS errors (RFC 8914 section 5.2).
const STALE_ANSWER: u16 = 3;
const STALE_NXDOMAIN_ANSWER: u16 = 19;
/// How long a failure is remembered, seconds (RFC 9520 section 3.2: at least one).
const FAILURE_TTL: u32 = 1;

/// An answer with everything about it that is asked more than once.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Header (id 0), question, records without OPT, no TTL with its highest bit set.
    bytes: Box<[u8]>,
    /// Where the TTLs stand in `bytes`.
    ttls: Box<[u16]>,
    /// All twelve bits (RFC 6891 section 6.1.3).
    pub rcode: u16,
    authenticated: bool,
    /// When the TTLs in `bytes` were true.
    at: Now,
    /// Seconds after `at` that it may be used; 0 for never again.
    pub ttl: u32,
    /// min(TTL, MINIMUM) of the SOA in the authority section (RFC 2308 section 5).
    pub soa_minimum: Option<u32>,
    /// The server it came from, or that the answer came from of which it was made.
    pub server: Option<SocketAddr>,
    /// AAAA records in it were made of A records.
    pub synthesized: bool,
}

/// Why a server's bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// A record is cut off, a name is malformed, or there is an unasked signature.
    Malformed,
    /// It can be walked but not decoded and encoded again, which its misplaced OPT record requires.
    Rewrite,
}

impl Answer {
    /// Takes a server's response, whose header and question the caller has matched.
    pub fn from_server(now: Now, bytes: &[u8]) -> Result<Self, AnswerError> {
        let (question, mut records) = message::question(bytes).ok_or(AnswerError::Malformed)?;
        let (mut opt, mut dname) = (None, false);
        while records.more() {
            let record = records.next(bytes).ok_or(AnswerError::Malformed)?;
            match record.kind {
                TYPE_TSIG => return Err(AnswerError::Malformed),
                TYPE_OPT if opt.is_some() || record.section != Section::Additional || bytes[record.start] != 0 => {
                    return Err(AnswerError::Malformed);
                }
                TYPE_OPT => opt = Some(record),
                TYPE_DNAME => dname = true,
                _ => {}
            }
        }
        let end = records.position();
        let extended = opt.map_or(0, |record| (record.ttl >> 24) as u16);
        let rcode = u16_at(bytes, 2) & 0xf | extended << 4;
        let mut kept = match opt {
            None => bytes[..end].to_vec(),
            Some(record) => {
                if record.end == end {
                    let mut kept = bytes[..record.start].to_vec();
                    let count = u16_at(bytes, 10) - 1;
                    kept[10..12].copy_from_slice(&count.to_be_bytes());
                    kept
                } else {
                    // Cutting it out would move what compression pointers point to.
                    let mut message = Message::from_vec(bytes).map_err(|_| AnswerError::Rewrite)?;
                    message.edns = None;
                    message.to_vec().map_err(|_| AnswerError::Rewrite)?
                }
            }
        };
        if dname {
            lower_aliases(&mut kept).ok_or(AnswerError::Malformed)?;
        }
        Self::examined(now, kept, question, rcode).ok_or(AnswerError::Rewrite)
    }

    /// An answer made here: any encoded response with one question and without OPT.
    pub fn made(now: Now, bytes: Vec<u8>) -> Option<Self> {
        let (question, _) = message::question(&bytes)?;
        let rcode = u16_at(&bytes, 2) & 0xf;
        let mut answer = Self::examined(now, bytes, question, rcode)?;
        answer.authenticated = false;
        Some(answer)
    }

    /// An answer that says only why there is none; `rcode` is at most 15.
    pub fn failure(now: Now, question: &Question, rcode: u16) -> Self {
        let bytes = message::bare_reply(0, 0, rcode, Some(question), None, 0);
        Self {
            bytes: bytes.into(),
            ttls: Box::default(),
            rcode,
            authenticated: false,
            at: now,
            ttl: FAILURE_TTL,
            soa_minimum: None,
            server: None,
            synthesized: false,
        }
    }

    fn examined(now: Now, mut bytes: Vec<u8>, question: Question, rcode: u16) -> Option<Self> {
        let (_, mut records) = message::question(&bytes)?;
        let (mut lowest, mut matching, mut soa_minimum) = (u32::MAX, false, None);
        let mut ttls = Vec::new();
        while records.more() {
            let record = records.next(&bytes)?;
            // No message is longer than 65,535 bytes, so no position is larger.
            ttls.push(u16::try_from(record.ttl_at).ok()?);
            if record.ttl != sane_ttl(record.ttl) {
                bytes[record.ttl_at..record.ttl_at + 4].fill(0);
            }
            match record.section {
                Section::Answer => {
                    lowest = lowest.min(sane_ttl(record.ttl));
                    matching |= record.kind == question.kind || question.kind == TYPE_ANY;
                }
                Section::Authority if record.kind == TYPE_SOA && record.end - record.data >= 22 => {
                    soa_minimum = Some(sane_ttl(record.ttl).min(sane_ttl(u32_at(&bytes, record.end - 4))));
                }
                _ => {}
            }
        }
        let ttl = match rcode {
            NOERROR if matching => lowest.min(MAX_TTL),
            NOERROR | NXDOMAIN => soa_minimum.map_or(0, |minimum| minimum.min(lowest).min(MAX_NEGATIVE_TTL)),
            _ => FAILURE_TTL,
        };
        let authenticated = u16_at(&bytes, 2) & FLAG_AD != 0;
        let (bytes, ttls) = (bytes.into(), ttls.into());
        Some(Self { bytes, ttls, rcode, authenticated, at: now, ttl, soa_minimum, server: None, synthesized: false })
    }

    /// The same answer, with the server it came from.
    #[must_use]
    pub fn told_by(mut self, server: Option<SocketAddr>) -> Self {
        self.server = server;
        self
    }

    /// The same answer, with what is known of its signatures.
    #[must_use]
    pub fn with_authenticated(mut self, authenticated: bool) -> Self {
        self.authenticated = authenticated;
        self
    }

    /// The message as it is kept: without id and OPT.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same answer, known to hold addresses made here.
    #[must_use]
    pub fn as_synthesized(mut self) -> Self {
        self.synthesized = true;
        self
    }

    /// The same answer, kept for `seconds`.
    #[must_use]
    pub fn kept_for(mut self, seconds: u32) -> Self {
        self.ttl = seconds;
        self
    }

    /// The same answer, kept no longer than `seconds`.
    #[must_use]
    pub fn kept_at_most(mut self, seconds: u32) -> Self {
        self.ttl = self.ttl.min(seconds);
        self
    }

    /// A name that exists or a name that does not: the server knew.
    pub fn is_conclusive(&self) -> bool {
        matches!(self.rcode, NOERROR | NXDOMAIN)
    }

    pub fn age(&self, now: Now) -> u32 {
        u32::try_from(now.since(self.at).as_secs()).unwrap_or(u32::MAX)
    }

    pub fn is_fresh(&self, now: Now) -> bool {
        self.age(now) < self.ttl
    }

    /// In the last tenth of its life, which is long enough for asking again in time.
    pub fn is_nearly_expired(&self, now: Now) -> bool {
        self.ttl >= SHORTEST_PREFETCHED && self.ttl.saturating_sub(self.age(now)) <= self.ttl / 10
    }

    /// Expired by less than `window`, and worth giving out all the same while nobody knows better (RFC 8767 section 4).
    pub fn is_stale(&self, now: Now, window: Duration) -> bool {
        let age = now.since(self.at);
        let ttl = Duration::from_secs(self.ttl.into());
        self.is_conclusive() && age >= ttl && age < ttl + window
    }

    /// A stale answer as it is given out: with short TTLs from now on.
    pub fn revived(&self, now: Now) -> Self {
        let mut bytes = self.bytes.clone();
        self.write_ttls(&mut bytes, |_| STALE_TTL);
        Self { bytes, ttls: self.ttls.clone(), at: now, ttl: STALE_TTL, authenticated: false, ..*self }
    }

    /// Corrects the counts of `out`, which is the beginning of the answer: the sections that are left out whole.
    fn count_records(&self, out: &mut [u8]) {
        let [answers, authorities] = [6, 8].map(|at| usize::from(u16_at(out, at)));
        let count = self.ttls.iter().filter(|&&at| usize::from(at) < out.len()).count();
        if count < answers + authorities {
            out[8..10].fill(0);
        }
        out[10..12].fill(0);
    }

    /// `bytes` may be the beginning of the answer alone, up to any record.
    fn write_ttls(&self, bytes: &mut [u8], ttl: impl Fn(u32) -> u32) {
        let end = bytes.len();
        for at in self.ttls.iter().map(|&at| usize::from(at)).take_while(|&at| at < end) {
            let ttl = ttl(u32_at(bytes, at));
            bytes[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of memory it takes, allocations not rounded.
    pub fn footprint(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + size_of_val(&*self.ttls)
    }

    /// Decodes the answer, with the TTLs of `now`; `None` when a record contradicts its type's definition.
    pub fn decode(&self, now: Now) -> Option<Message> {
        let mut message = Message::from_vec(&self.bytes).ok()?;
        let age = self.age(now);
        for section in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
            for record in section {
                record.ttl = record.ttl.saturating_sub(age);
            }
        }
        Some(message)
    }

    /// The data of the answer section's records of one type in class IN.
    pub fn data(&self, kind: u16) -> impl Iterator<Item = &[u8]> {
        let mut records = message::question(&self.bytes).map(|(_, records)| records);
        std::iter::from_fn(move || {
            let records = records.as_mut()?;
            while records.more() {
                let record = records.next(&self.bytes)?;
                if record.section != Section::Answer {
                    return None;
                }
                if record.kind == kind && record.class == CLASS_IN {
                    return Some(&self.bytes[record.data..record.end]);
                }
            }
            None
        })
    }

    /// True when there is an AAAA record whose address `excluded` does not reject.
    pub fn has_address(&self, mut excluded: impl FnMut([u8; 16]) -> bool) -> bool {
        self.data(TYPE_AAAA).any(|data| <[u8; 16]>::try_from(data).is_ok_and(|address| !excluded(address)))
    }

    /// How many bytes of the answer are sent, at most `limit`: all, or as far as the additional section, or as far as the
    /// authority section where that only names the servers (RFC 2181 section 9). A referral is of no use without its
    /// additional section (RFC 9471), nor is what DNSSEC has to prove of a positive answer (RFC 4035 section 3.1.3.3).
    fn cut(&self, limit: usize) -> Option<usize> {
        if self.bytes.len() <= limit {
            return Some(self.bytes.len());
        }
        let (question, mut records) = message::question(&self.bytes)?;
        let (mut answers, mut matching, mut only_names) = (false, false, true);
        let (mut authority, mut additional) = (self.bytes.len(), self.bytes.len());
        while records.more() {
            let record = records.next(&self.bytes)?;
            match record.section {
                Section::Answer => {
                    answers = true;
                    matching |= record.kind == question.kind;
                }
                Section::Authority => {
                    authority = authority.min(record.start);
                    only_names &= record.kind == TYPE_NS;
                }
                Section::Additional => additional = additional.min(record.start),
            }
        }
        let without_additional = (answers || self.soa_minimum.is_some()).then_some(additional);
        let without_authority = (matching && only_names).then_some(authority.min(additional));
        [without_additional, without_authority].into_iter().flatten().find(|&length| length <= limit)
    }

    /// Writes the message for one client into `out`: its id, its spelling of the question, current TTLs, at most `limit`
    /// bytes. Of a larger one goes what can be spared; if that is not enough it becomes an empty one with TC (the result is
    /// true then), which sends the client to TCP (RFC 2181 section 9). `stale` says that the answer has expired.
    pub fn reply(&self, now: Now, query: &Query, limit: usize, stale: bool, out: &mut Vec<u8>) -> bool {
        out.clear();
        let name = query.question.name.wire();
        let end = HEADER + name.len();
        // The kept question differs at most in case and, where an A answer serves an AAAA question, in its type: what was
        // validated then is that there is no A, unless the name does not exist at all.
        debug_assert!(self.bytes[HEADER..end].eq_ignore_ascii_case(name));
        let proven = u16_at(&self.bytes, end) == query.question.kind || self.rcode == NXDOMAIN;
        let wants_ad = query.dnssec_ok() || query.flags & FLAG_AD != 0;
        let ad = if self.authenticated && proven && wants_ad && !stale { FLAG_AD } else { 0 };
        // An extended code cannot be said to a client without EDNS.
        let rcode = if self.rcode > 0xf && query.edns.is_none() { SERVFAIL } else { self.rcode };
        let error = stale.then_some(if rcode == NXDOMAIN { STALE_NXDOMAIN_ANSWER } else { STALE_ANSWER });
        let opt_length = query.edns.map_or(0, |_| message::opt_length(error));
        let Some(length) = self.cut(limit - opt_length) else {
            let question = Some(&query.question);
            message::bare_reply_into(out, query.id, query.flags, rcode, question, query.edns, FLAG_TC);
            return true;
        };
        out.extend_from_slice(&self.bytes[..length]);
        if length < self.bytes.len() {
            self.count_records(out);
        }
        let flags = FLAG_QR | FLAG_RA | ad | (query.flags & (FLAG_RD | message::FLAG_CD)) | (rcode & 0xf);
        out[..2].copy_from_slice(&query.id.to_be_bytes());
        out[2..4].copy_from_slice(&flags.to_be_bytes());
        out[HEADER..end].copy_from_slice(name);
        out[end..end + 2].copy_from_slice(&query.question.kind.to_be_bytes());
        if stale {
            self.write_ttls(out, |_| STALE_TTL);
        } else if let age @ 1.. = self.age(now) {
            self.write_ttls(out, |ttl| ttl.saturating_sub(age));
        }
        if let Some(edns) = query.edns {
            message::push_opt(out, edns.dnssec_ok, rcode, error);
        }
        false
    }
}

/// Writes the targets of aliases in lower case: what a server derives from a DNAME repeats the first labels of the question as
/// they were spelled for it, which is random. In place, since encoding anew may compress less and then not fit any more.
fn lower_aliases(message: &mut [u8]) -> Option<()> {
    let (_, mut records) = message::question(message)?;
    while records.more() {
        let record = records.next(message)?;
        if record.section != Section::Answer {
            break;
        }
        let mut at = record.data;
        // A pointer ends it: what it leads to was written before, as a name of its own.
        while record.kind == TYPE_CNAME && at < record.end && (1..=63).contains(&message[at]) {
            let end = at + 1 + usize::from(message[at]);
            message.get_mut(at + 1..end.min(record.end))?.make_ascii_lowercase();
            at = end;
        }
    }
    Some(())
}

/// A TTL with its highest bit set means zero (RFC 2181 section 8).
fn sane_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}
