//! The answers made of addresses of IPv4 hosts (RFC 6147 section 5).

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::AAAA;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::answer::Answer;
use super::config::Exclusion;
use super::message::TYPE_A;
use super::prefix::Mappings;
use crate::core::time::Now;

/// The TTL of a synthesized record when no SOA says how long the absence of AAAA lasts (RFC 6147 section 5.1.7).
pub const TTL_WITHOUT_SOA: u32 = 600;

/// The native addresses that count as absent: always ::ffff:0:0/96 (RFC 6147 section 5.1.4), and the administrator's.
#[derive(Clone, Debug, Default)]
pub struct ExcludedRanges {
    ranges: Vec<(u128, u128)>,
}

impl ExcludedRanges {
    pub fn new(exclusions: &[Exclusion]) -> Self {
        let mapped = (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96);
        let own = exclusions.iter().filter_map(|exclusion| match exclusion {
            Exclusion::Range { address, length } => Some((*address, *length)),
            Exclusion::Suffix(_) => None,
        });
        let ranges = std::iter::once(mapped).chain(own).map(|(address, length)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (u128::from(address) & mask, mask)
        });
        Self { ranges: ranges.collect() }
    }

    pub fn contains(&self, address: [u8; 16]) -> bool {
        let address = u128::from_be_bytes(address);
        self.ranges.iter().any(|(network, mask)| address & mask == *network)
    }
}

/// True when an answer to an A question holds something to synthesize from: an address that a prefix stands for.
pub fn has_usable_ipv4(answer: &Answer, mappings: &Mappings) -> bool {
    answer
        .data(TYPE_A)
        .any(|data| <[u8; 4]>::try_from(data).is_ok_and(|address| mappings.embed(address.into()).is_some()))
}

/// The answer to the AAAA question made of the answer to the A question: one AAAA for each A that a prefix stands for,
/// aliases kept (RFC 6147 section 5.1.5), TTLs at most `cap` seconds (5.1.7), signatures over the replaced records left out,
/// never AD. Without any such A it is an empty answer, kept as long as the A records would have been. `None` when the answer
/// cannot be decoded.
pub fn synthesize(now: Now, a: &Answer, mappings: &Mappings, cap: u32) -> Option<Answer> {
    let mut message = a.decode(now)?;
    message.metadata.authentic_data = false;
    message.queries.iter_mut().for_each(|query| _ = query.set_query_type(RecordType::AAAA));
    let mut made = 0;
    let mut unmapped_ttl = cap;
    message.answers = std::mem::take(&mut message.answers)
        .into_iter()
        .filter(|record| !covers(record, RecordType::A))
        .filter_map(|mut record| {
            let (RData::A(address), DNSClass::IN) = (&record.data, record.dns_class) else { return Some(record) };
            record.ttl = record.ttl.min(cap);
            let Some(address) = mappings.embed(address.0) else {
                unmapped_ttl = unmapped_ttl.min(record.ttl);
                return None;
            };
            made += 1;
            record.data = RData::AAAA(AAAA(address));
            Some(record)
        })
        .collect();
    let answer = Answer::made(now, message.to_vec().ok()?)?.told_by(a.server);
    Some(if made > 0 { answer.as_synthesized() } else { answer.kept_for(unmapped_ttl) })
}

/// An answer to an AAAA question without the addresses in the excluded ranges; `None` when it cannot be decoded.
pub fn without_excluded(now: Now, aaaa: &Answer, excluded: &ExcludedRanges) -> Option<Answer> {
    let mut message = aaaa.decode(now)?;
    message.metadata.response_code = ResponseCode::NoError;
    message.answers.retain(|record| match &record.data {
        RData::AAAA(address) => !excluded.contains(address.0.octets()),
        _ => !covers(record, RecordType::AAAA),
    });
    Some(Answer::made(now, message.to_vec().ok()?)?.told_by(aaaa.server))
}

/// True for a signature over records of one type (RFC 4034 section 3.1).
fn covers(record: &Record, kind: RecordType) -> bool {
    match &record.data {
        RData::Unknown { code: RecordType::RRSIG, rdata } => {
            rdata.anything.get(..2) == Some(&u16::from(kind).to_be_bytes()[..])
        }
        _ => false,
    }
}
