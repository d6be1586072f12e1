//! The outside of DNS messages: queries from clients, queries to servers, and records found without being interpreted.
//!
//! Answers that need no synthesis leave as the bytes the server sent, so that types nobody here has heard of survive.
//! Only messages that must be rewritten are decoded (`synthesis`, `reverse`).

use super::name::Name;

pub const HEADER: usize = 12;
/// The payload offered to both sides and the most ever sent by UDP: fits 1280-byte links with every header.
pub const MAX_UDP: usize = 1232;
/// What a client without EDNS accepts by UDP (RFC 1035 section 4.2.1).
pub const MIN_UDP: usize = 512;
/// The OPT record without options.
const OPT_LENGTH: usize = 11;
/// The option for an extended error without text, and its code.
const ERROR_LENGTH: usize = 6;
const EDNS_ERROR: u16 = 15;

pub const TYPE_A: u16 = 1;
pub const TYPE_NS: u16 = 2;
pub const TYPE_CNAME: u16 = 5;
pub const TYPE_SOA: u16 = 6;
pub const TYPE_PTR: u16 = 12;
pub const TYPE_AAAA: u16 = 28;
pub const TYPE_DNAME: u16 = 39;
pub const TYPE_OPT: u16 = 41;
pub const TYPE_TSIG: u16 = 250;
pub const TYPE_ANY: u16 = 255;
pub const CLASS_IN: u16 = 1;

pub const NOERROR: u16 = 0;
pub const FORMERR: u16 = 1;
pub const SERVFAIL: u16 = 2;
pub const NXDOMAIN: u16 = 3;
pub const NOTIMP: u16 = 4;
pub const REFUSED: u16 = 5;
pub const BADVERS: u16 = 16;

pub const FLAG_QR: u16 = 0x8000;
pub const FLAG_TC: u16 = 0x0200;
pub const FLAG_RD: u16 = 0x0100;
pub const FLAG_RA: u16 = 0x0080;
pub const FLAG_AD: u16 = 0x0020;
pub const FLAG_CD: u16 = 0x0010;
const OPCODE: u16 = 0x7800;
/// DNSSEC OK, in the TTL field of an OPT record.
const EDNS_DO: u32 = 0x8000;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub name: Name,
    pub kind: u16,
    pub class: u16,
}

/// The EDNS part of a client's query (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    pub payload: u16,
    pub version: u8,
    pub dnssec_ok: bool,
}

/// A client's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    pub flags: u16,
    pub question: Question,
    pub edns: Option<Edns>,
}

/// Why a client's bytes are no query that can be answered in substance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// Shorter than a header: nothing to answer.
    Short,
    /// A response. Answering it would let two servers talk forever.
    Response,
    /// An operation other than a query.
    Opcode { id: u16, flags: u16 },
    /// Not one question, records where none belong, two OPT records, or lengths that do not add up.
    Malformed { id: u16, flags: u16 },
}

impl Query {
    pub fn parse(bytes: &[u8]) -> Result<Self, QueryError> {
        if bytes.len() < HEADER {
            return Err(QueryError::Short);
        }
        let (id, flags) = (u16_at(bytes, 0), u16_at(bytes, 2));
        if flags & FLAG_QR != 0 {
            return Err(QueryError::Response);
        }
        if flags & OPCODE != 0 {
            return Err(QueryError::Opcode { id, flags });
        }
        Self::parse_body(bytes, id, flags).ok_or(QueryError::Malformed { id, flags })
    }

    fn parse_body(bytes: &[u8], id: u16, flags: u16) -> Option<Self> {
        // A query holds one question and an OPT record; a signature at most beside it.
        if counts(bytes)[..3] != [1, 0, 0] || counts(bytes)[3] > 2 {
            return None;
        }
        let (question, mut rest) = question(bytes)?;
        let mut edns = None;
        while rest.index < rest.total {
            let record = rest.next(bytes)?;
            if record.kind == TYPE_OPT {
                if edns.is_some() || bytes[record.start] != 0 {
                    return None;
                }
                let version = (record.ttl >> 16) as u8;
                edns = Some(Edns { payload: record.class, version, dnssec_ok: record.ttl & EDNS_DO != 0 });
            }
        }
        Some(Self { id, flags, question, edns })
    }

    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    pub fn checking_disabled(&self) -> bool {
        self.flags & FLAG_CD != 0
    }

    /// The largest answer this client takes by UDP.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(MIN_UDP, |edns| usize::from(edns.payload).clamp(MIN_UDP, MAX_UDP))
    }
}

/// A query for a server. Asks for AD too, so that one cached answer serves clients that care and clients that do not.
pub fn upstream_query(
    id: u16,
    question: &Question,
    recursion: bool,
    checking_disabled: bool,
    edns: Option<bool>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + question.name.wire().len() + 4 + OPT_LENGTH);
    let mut flags = FLAG_AD;
    flags |= if recursion { FLAG_RD } else { 0 };
    flags |= if checking_disabled { FLAG_CD } else { 0 };
    for field in [id, flags, 1, 0, 0, 0] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    push_question(&mut bytes, question);
    if let Some(dnssec_ok) = edns {
        push_opt(&mut bytes, dnssec_ok, NOERROR, None);
    }
    bytes
}

/// An answer of header and question only (errors, truncation). The question is left out where it could not be read.
pub fn bare_reply(
    id: u16,
    query_flags: u16,
    rcode: u16,
    question: Option<&Question>,
    edns: Option<Edns>,
    extra: u16,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MIN_UDP);
    bare_reply_into(&mut bytes, id, query_flags, rcode, question, edns, extra);
    bytes
}

/// The same, in place of what `bytes` held.
pub fn bare_reply_into(
    bytes: &mut Vec<u8>,
    id: u16,
    query_flags: u16,
    rcode: u16,
    question: Option<&Question>,
    edns: Option<Edns>,
    extra: u16,
) {
    bytes.clear();
    let flags = FLAG_QR | FLAG_RA | (query_flags & (OPCODE | FLAG_RD | FLAG_CD)) | extra | (rcode & 0xf);
    for field in [id, flags, u16::from(question.is_some()), 0, 0, 0] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    if let Some(question) = question {
        push_question(bytes, question);
    }
    if let Some(edns) = edns {
        push_opt(bytes, edns.dnssec_ok, rcode, None);
    }
}

fn push_question(bytes: &mut Vec<u8>, question: &Question) {
    bytes.extend_from_slice(question.name.wire());
    bytes.extend_from_slice(&question.kind.to_be_bytes());
    bytes.extend_from_slice(&question.class.to_be_bytes());
}

/// Bytes of an OPT record with or without an extended error.
pub fn opt_length(error: Option<u16>) -> usize {
    OPT_LENGTH + if error.is_some() { ERROR_LENGTH } else { 0 }
}

/// Appends an OPT record, with an extended error (RFC 8914) when there is one, and counts it.
pub fn push_opt(bytes: &mut Vec<u8>, dnssec_ok: bool, rcode: u16, error: Option<u16>) {
    let ttl = (u32::from(rcode >> 4) << 24) | if dnssec_ok { EDNS_DO } else { 0 };
    bytes.push(0);
    bytes.extend_from_slice(&TYPE_OPT.to_be_bytes());
    bytes.extend_from_slice(&(MAX_UDP as u16).to_be_bytes());
    bytes.extend_from_slice(&ttl.to_be_bytes());
    match error {
        None => bytes.extend_from_slice(&[0, 0]),
        Some(code) => {
            for field in [ERROR_LENGTH as u16, EDNS_ERROR, 2, code] {
                bytes.extend_from_slice(&field.to_be_bytes());
            }
        }
    }
    let count = u16_at(bytes, 10) + 1;
    bytes[10..12].copy_from_slice(&count.to_be_bytes());
}

/// The section a record stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// A record found in a message: where its parts lie, and its fixed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordAt {
    pub section: Section,
    pub start: usize,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    pub ttl_at: usize,
    /// The data lies in `data..end`.
    pub data: usize,
    pub end: usize,
}

/// Walks over the records of a message without allocating.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    position: usize,
    index: usize,
    total: usize,
    answers: usize,
    authorities: usize,
}

impl Records {
    /// The next record; `None` when it is cut off. Ask only while [`Records::more`].
    pub fn next(&mut self, bytes: &[u8]) -> Option<RecordAt> {
        let start = self.position;
        let fixed = skip_name(bytes, start)?;
        let data = fixed + 10;
        if data > bytes.len() {
            return None;
        }
        let end = data + usize::from(u16_at(bytes, fixed + 8));
        if end > bytes.len() {
            return None;
        }
        let section = if self.index < self.answers {
            Section::Answer
        } else if self.index < self.answers + self.authorities {
            Section::Authority
        } else {
            Section::Additional
        };
        self.position = end;
        self.index += 1;
        Some(RecordAt {
            section,
            start,
            kind: u16_at(bytes, fixed),
            class: u16_at(bytes, fixed + 2),
            ttl: u32_at(bytes, fixed + 4),
            ttl_at: fixed + 4,
            data,
            end,
        })
    }

    pub fn more(&self) -> bool {
        self.index < self.total
    }

    /// Where the next record would start; after the last one, where the message ends.
    pub fn position(&self) -> usize {
        self.position
    }
}

/// The question of a message that has exactly one, and a walk over the records behind it.
pub fn question(bytes: &[u8]) -> Option<(Question, Records)> {
    if bytes.len() < HEADER {
        return None;
    }
    let [questions, answers, authorities, additionals] = counts(bytes);
    if questions != 1 {
        return None;
    }
    let name = Name::parse(&bytes[HEADER..])?;
    let end = HEADER + name.wire().len();
    if end + 4 > bytes.len() {
        return None;
    }
    let records =
        Records { position: end + 4, index: 0, total: answers + authorities + additionals, answers, authorities };
    Some((Question { name, kind: u16_at(bytes, end), class: u16_at(bytes, end + 2) }, records))
}

/// The end of the possibly compressed name at `position`. Pointers are not followed: the record's end does not depend on them.
fn skip_name(bytes: &[u8], mut position: usize) -> Option<usize> {
    let start = position;
    loop {
        match usize::from(*bytes.get(position)?) {
            0 => return Some(position + 1),
            label @ 1..=63 => position += 1 + label,
            0xc0.. => return (position + 2 <= bytes.len()).then_some(position + 2),
            _ => return None,
        }
        if position - start >= super::name::MAX_NAME {
            return None;
        }
    }
}

fn counts(bytes: &[u8]) -> [usize; 4] {
    [4, 6, 8, 10].map(|at| usize::from(u16_at(bytes, at)))
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
