//! Addresses of IPv4 hosts in IPv6 (RFC 6052) and the answers made of them (RFC 6147 section 5).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::AAAA;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::answer::Answer;
use super::config::{ConfigError, Exclusion};
use super::message::TYPE_A;
use crate::core::time::Now;

/// The TTL of a synthesized record when no SOA says how long the absence of AAAA lasts (RFC 6147 section 5.1.7).
pub const TTL_WITHOUT_SOA: u32 = 600;

/// A Pref64::/n. The lengths of RFC 6052 section 2.2 are 32, 40, 48, 56, 64 and 96.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: Ipv6Addr,
    length: u8,
}

impl Prefix {
    /// # Errors
    /// A length that RFC 6052 does not define, or bits set behind the prefix or in bits 64 to 71.
    pub fn new(address: Ipv6Addr, length: u8) -> Result<Self, ConfigError> {
        if !matches!(length, 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(ConfigError(format!(
                "{address}/{length} is not a NAT64 prefix; RFC 6052 defines the lengths 32, 40, 48, 56, 64 and 96"
            )));
        }
        let bytes = address.octets();
        if bytes[usize::from(length / 8)..].iter().any(|&byte| byte != 0) {
            return Err(ConfigError(format!("{address}/{length} has bits set behind the prefix; clear them")));
        }
        if bytes[8] != 0 {
            return Err(ConfigError(format!("{address}/{length} has bits 64 to 71 set; RFC 6052 keeps them zero")));
        }
        Ok(Self { address, length })
    }

    pub fn address(self) -> Ipv6Addr {
        self.address
    }

    pub fn length(self) -> u8 {
        self.length
    }

    /// Positions of the four IPv4 bytes; they step over byte 8 (bits 64 to 71).
    fn positions(self) -> [usize; 4] {
        match self.length {
            32 => [4, 5, 6, 7],
            40 => [5, 6, 7, 9],
            48 => [6, 7, 9, 10],
            56 => [7, 9, 10, 11],
            64 => [9, 10, 11, 12],
            _ => [12, 13, 14, 15],
        }
    }

    /// The IPv6 address of an IPv4 host.
    pub fn embed(self, address: Ipv4Addr) -> Ipv6Addr {
        let mut bytes = self.address.octets();
        for (position, byte) in self.positions().into_iter().zip(address.octets()) {
            bytes[position] = byte;
        }
        bytes.into()
    }

    /// The IPv4 host of an address under the prefix. The suffix bits are ignored, as RFC 6052 section 2.2 asks.
    pub fn extract(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let bytes = address.octets();
        let length = usize::from(self.length / 8);
        (bytes[..length] == self.address.octets()[..length])
            .then(|| self.positions().map(|position| bytes[position]).into())
    }
}

impl FromStr for Prefix {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parts =
            text.split_once('/').and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)));
        match parts {
            Some((address, length)) => Self::new(address, length),
            None => {
                Err(ConfigError(format!("\"{text}\" is not an IPv6 prefix; write it like fd7c:1a2b:3c4d:7777::/96")))
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

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

/// True when an answer to an A question holds something to synthesize from.
pub fn has_ipv4(answer: &Answer) -> bool {
    answer.data(TYPE_A).any(|data| data.len() == 4)
}

/// The answer to the AAAA question made of the answer to the A question: one AAAA for each A, aliases kept
/// (RFC 6147 section 5.1.5), TTLs at most `cap` seconds (5.1.7), signatures over the replaced records left out, never AD.
/// `None` when the answer cannot be decoded.
pub fn synthesize(now: Now, a: &Answer, prefix: Prefix, cap: u32) -> Option<Answer> {
    let mut message = a.decode(now)?;
    message.metadata.authentic_data = false;
    message.queries.iter_mut().for_each(|query| _ = query.set_query_type(RecordType::AAAA));
    message.answers.retain(|record| !covers(record, RecordType::A));
    for record in &mut message.answers {
        if let (RData::A(address), DNSClass::IN) = (&record.data, record.dns_class) {
            record.data = RData::AAAA(AAAA(prefix.embed(address.0)));
            record.ttl = record.ttl.min(cap);
        }
    }
    Answer::made(now, message.to_vec().ok()?)
}

/// An answer to an AAAA question without the addresses in the excluded ranges; `None` when it cannot be decoded.
pub fn without_excluded(now: Now, aaaa: &Answer, excluded: &ExcludedRanges) -> Option<Answer> {
    let mut message = aaaa.decode(now)?;
    message.metadata.response_code = ResponseCode::NoError;
    message.answers.retain(|record| match &record.data {
        RData::AAAA(address) => !excluded.contains(address.0.octets()),
        _ => !covers(record, RecordType::AAAA),
    });
    Answer::made(now, message.to_vec().ok()?)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6052 section 2.4, table 2.
    #[test]
    fn the_examples_of_rfc_6052() {
        let host = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let prefix: Prefix = prefix.parse().expect("a prefix");
            let address: Ipv6Addr = address.parse().expect("an address");
            assert_eq!(prefix.embed(host), address, "{prefix}");
            assert_eq!(prefix.extract(address), Some(host), "{prefix}");
            assert_eq!(prefix.extract("fd00::1".parse().expect("an address")), None, "{prefix}");
        }
    }
}
