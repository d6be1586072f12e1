//! What one client may send: a token bucket per address, in a table of fixed size.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use super::config::Rate;
use super::secret::Secret;
use crate::core::time::Now;

/// Buckets: at most 3 MiB, in blocks that are made when a client falls into them, since one allocation of that size holds up
/// everybody's queries.
const BLOCKS: usize = 512;
const SETS: usize = 16;
const WAYS: usize = 8;
type Block = [Bucket; SETS * WAYS];
/// Of the answers kept from a client over its limit, one in so many is sent truncated: a client whose address somebody else
/// uses finds its way to TCP (the "slip" of response rate limiting).
const SLIP: u32 = 2;
const MILLION: u64 = 1_000_000;

/// What becomes of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    Answer,
    /// Over the limit: tell the client to use TCP.
    Truncate,
    /// Over the limit.
    Drop,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    address: u128,
    /// When `tokens` was true, microseconds; 0 in a bucket that nobody uses.
    at: u64,
    /// Millionths of a query.
    tokens: u64,
    /// Queries over the limit since the last one within it.
    over: u32,
}

/// The buckets of all clients.
pub struct Limiter {
    rate: Rate,
    blocks: Vec<Option<Box<Block>>>,
    hasher: Secret,
    /// Buckets in use that a new client took over because its set was full.
    pub displaced: u64,
}

impl Limiter {
    pub fn new(secret: Secret, rate: Rate) -> Self {
        Self { rate, blocks: vec![None; BLOCKS], hasher: secret, displaced: 0 }
    }

    /// Counts one query of a client.
    pub fn take(&mut self, now: Now, address: IpAddr) -> Allowance {
        let bucket = self.bucket(now, address);
        if bucket.tokens >= MILLION {
            bucket.tokens -= MILLION;
            bucket.over = 0;
            return Allowance::Answer;
        }
        bucket.over = bucket.over.wrapping_add(1);
        if bucket.over.is_multiple_of(SLIP) { Allowance::Truncate } else { Allowance::Drop }
    }

    /// Counts one query of a client, or says how long until it may come.
    pub fn wait(&mut self, now: Now, address: IpAddr) -> Option<Duration> {
        let per_second = u64::from(self.rate.per_second);
        let bucket = self.bucket(now, address);
        if bucket.tokens >= MILLION {
            bucket.tokens -= MILLION;
            return None;
        }
        Some(Duration::from_micros((MILLION - bucket.tokens).div_ceil(per_second)))
    }

    /// The client's bucket, filled up to `now`.
    fn bucket(&mut self, now: Now, address: IpAddr) -> &mut Bucket {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            IpAddr::V6(address) => u128::from(address),
        };
        let hash = self.hasher.hash_one(address) as usize;
        let block = self.blocks[hash % BLOCKS].get_or_insert_with(|| Box::new([Bucket::default(); SETS * WAYS]));
        let set = hash / BLOCKS % SETS * WAYS;
        let ways = &mut block[set..set + WAYS];
        let found = ways.iter().position(|bucket| bucket.address == address && bucket.at > 0);
        // The one not heard of for longest: unused ones first.
        let at = found.unwrap_or_else(|| (0..WAYS).min_by_key(|&way| ways[way].at).unwrap_or(0));
        let Rate { per_second, burst } = self.rate;
        let (full, micros) = (u64::from(burst) * MILLION, now.0.max(1));
        let fill = |bucket: &Bucket| {
            let gained = micros.saturating_sub(bucket.at).saturating_mul(u64::from(per_second));
            full.min(bucket.tokens + gained)
        };
        let bucket = &mut ways[at];
        if found.is_none() {
            self.displaced += u64::from(bucket.at > 0 && fill(bucket) < full);
            *bucket = Bucket { address, at: micros, tokens: full, over: 0 };
        }
        bucket.tokens = fill(bucket);
        bucket.at = micros;
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> Limiter {
        Limiter::new(Secret::fixed(), Rate { per_second: 10, burst: 3 })
    }

    #[test]
    fn a_burst_then_the_rate_then_every_second_one_truncated() {
        let mut limiter = limiter();
        let client: IpAddr = "fd00::1".parse().expect("an address");
        let mut take = |millis: u64| limiter.take(Now::from_secs(1) + Duration::from_millis(millis), client);
        use Allowance::{Answer, Drop, Truncate};
        assert_eq!([0, 0, 0, 0, 0, 0].map(&mut take), [Answer, Answer, Answer, Drop, Truncate, Drop]);
        assert_eq!([99, 100, 101].map(&mut take), [Truncate, Answer, Drop]);
        // A long silence fills the burst and no more.
        assert_eq!([9000, 9000, 9000, 9000].map(&mut take), [Answer, Answer, Answer, Drop]);
        let other = "fd00::2".parse().expect("an address");
        assert_eq!(limiter.take(Now(0), other), Answer);
    }

    #[test]
    fn connections_wait_for_their_turn() {
        let mut limiter = limiter();
        let client: IpAddr = "10.0.0.1".parse().expect("an address");
        for _ in 0..3 {
            assert_eq!(limiter.wait(Now(1_000_000), client), None);
        }
        assert_eq!(limiter.wait(Now(1_000_000), client), Some(Duration::from_millis(100)));
        assert_eq!(limiter.wait(Now(1_060_000), client), Some(Duration::from_millis(40)));
        assert_eq!(limiter.wait(Now(1_100_000), client), None);
    }

    #[test]
    fn many_clients_take_no_more_room() {
        let mut limiter = limiter();
        for host in 0..200_000u128 {
            let address = IpAddr::V6((host << 7).into());
            assert_eq!(limiter.take(Now(1), address), Allowance::Answer);
        }
        assert_eq!((limiter.blocks.len(), size_of::<Block>()), (BLOCKS, 6144));
        assert!(limiter.displaced > 100_000);
    }
}
