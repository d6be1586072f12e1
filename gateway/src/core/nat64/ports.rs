//! Ports of the IPv4 pool: who owns which, and which to hand out next.
//!
//! Shard `i` of `n` owns the ports whose pair (`port / 2`) is `i` modulo `n`, so that parity can be preserved inside a
//! shard and a reply finds its shard by the port alone. Inside a shard the ports are numbered densely ("slots").

use super::Protocol;
use super::config::Config;
use std::net::Ipv4Addr;

const NONE: u32 = u32::MAX;
/// Slot bits of even and odd ports.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// A port of a pool address, of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapped {
    /// Index of the pool address.
    pub address: u16,
    pub port: u16,
}

struct Ports {
    free: Vec<u64>,
    owners: Vec<u32>,
}

struct PoolAddress {
    address: Ipv4Addr,
    protocols: [Ports; 3],
}

/// Addresses that only static bindings use come last and have no ports to hand out.
pub struct Pool {
    addresses: Vec<PoolAddress>,
    /// How many have ports to hand out.
    dynamic: usize,
    shard: usize,
    shards: usize,
}

impl Pool {
    /// The ports of this shard in the pool of `config`, without those of static bindings.
    pub fn new(config: &Config) -> Self {
        let (shard, shards) = (config.shard, config.shards);
        let mut pool = Self { addresses: Vec::new(), dynamic: 0, shard, shards };
        let slots = (65_536usize / 2).div_ceil(shards) * 2;
        for entry in &config.pool {
            let index = pool.add(entry.address, slots);
            for port in (entry.first..=entry.last).filter(|port| usize::from(port / 2) % shards == shard) {
                let slot = pool.slot(port);
                for ports in &mut pool.addresses[index].protocols {
                    ports.free[slot / 64] |= 1 << (slot % 64);
                }
            }
        }
        pool.dynamic = pool.addresses.len();
        for entry in &config.static_bindings {
            let index = pool.add(entry.address, 0);
            if index < pool.dynamic && usize::from(entry.port / 2) % shards == shard {
                let slot = pool.slot(entry.port);
                pool.addresses[index].protocols[entry.protocol as usize].free[slot / 64] &= !(1 << (slot % 64));
            }
        }
        pool
    }

    /// The index of an address, which gets room for `slots` ports if it is new.
    fn add(&mut self, address: Ipv4Addr, slots: usize) -> usize {
        self.index_of(address).map_or_else(
            || {
                let ports = || Ports { free: vec![0; slots.div_ceil(64)], owners: vec![NONE; slots] };
                self.addresses.push(PoolAddress { address, protocols: [ports(), ports(), ports()] });
                self.addresses.len() - 1
            },
            usize::from,
        )
    }

    pub fn address(&self, index: u16) -> Ipv4Addr {
        self.addresses[usize::from(index)].address
    }

    pub fn index_of(&self, address: Ipv4Addr) -> Option<u16> {
        self.addresses.iter().position(|entry| entry.address == address).map(|index| index as u16)
    }

    /// A port of this shard, when the pool has it and nobody owns it.
    pub fn find(&self, protocol: Protocol, address: Ipv4Addr, port: u16) -> Option<Mapped> {
        self.free(protocol, Mapped { address: self.index_of(address)?, port })
    }

    /// The other port of a pair (an even one and the next), if it is free.
    pub fn partner(&self, protocol: Protocol, mapped: Mapped) -> Option<Mapped> {
        self.free(protocol, Mapped { port: mapped.port ^ 1, ..mapped })
    }

    fn free(&self, protocol: Protocol, mapped: Mapped) -> Option<Mapped> {
        let Mapped { address: index, port } = mapped;
        if usize::from(port / 2) % self.shards != self.shard {
            return None;
        }
        let slot = self.slot(port);
        let word = *self.addresses[usize::from(index)].protocols[protocol as usize].free.get(slot / 64)?;
        (word & (1 << (slot % 64)) != 0).then_some(mapped)
    }

    /// The binding that owns a port.
    pub fn owner(&self, protocol: Protocol, mapped: Mapped) -> Option<u32> {
        if usize::from(mapped.port / 2) % self.shards != self.shard {
            return None;
        }
        let ports = &self.addresses[usize::from(mapped.address)].protocols[protocol as usize];
        ports.owners.get(self.slot(mapped.port)).copied().filter(|owner| *owner != NONE)
    }

    /// Chooses a free port. The search begins at pool address `first` (modulo their number) and at a port that `start`,
    /// a hash of client and port, tells.
    ///
    /// A client keeps to one address while that has ports (RFC 4787 REQ-2). In order of preference: the port the client
    /// uses; the same range (below 1024 or not) and parity, for an even port one whose odd partner is free too (RTP and
    /// RTCP, RFC 4787 section 4.2.2); the same range; the same parity; any (RFC 6146 section
    /// 3.5.1.1, RFC 6056 section 3.3.3 for the start of the search).
    pub fn choose(&self, protocol: Protocol, wanted: u16, first: u64, start: u64) -> Option<Mapped> {
        let count = self.dynamic;
        for turn in 0..count {
            let address = (first as usize % count + turn) % count;
            let ports = &self.addresses[address].protocols[protocol as usize];
            if let Some(slot) = self.choose_slot(ports, wanted, start) {
                return Some(Mapped { address: address as u16, port: self.port(slot) });
            }
        }
        None
    }

    fn choose_slot(&self, ports: &Ports, wanted: u16, start: u64) -> Option<usize> {
        if usize::from(wanted / 2) % self.shards == self.shard {
            let slot = self.slot(wanted);
            if ports.free[slot / 64] & (1 << (slot % 64)) != 0 {
                return Some(slot);
            }
        }
        let parity = if wanted.is_multiple_of(2) { EVEN } else { !EVEN };
        let privileged = (512 - self.shard.min(512)).div_ceil(self.shards) * 2;
        let slots = ports.owners.len();
        let range = if wanted < 1024 { 0..privileged } else { privileged..slots };
        let whole_pairs = |word: u64| word & word >> 1 & EVEN;
        let same_parity = |word: u64| word & parity;
        let pairs = if wanted.is_multiple_of(2) { find(&ports.free, range.clone(), whole_pairs, start) } else { None };
        pairs
            .or_else(|| find(&ports.free, range.clone(), same_parity, start))
            .or_else(|| find(&ports.free, range, |word| word, start))
            .or_else(|| find(&ports.free, 0..slots, same_parity, start))
            .or_else(|| find(&ports.free, 0..slots, |word| word, start))
    }

    /// Gives a chosen port to `binding`.
    pub fn take(&mut self, protocol: Protocol, mapped: Mapped, binding: u32) {
        let slot = self.slot(mapped.port);
        let ports = &mut self.addresses[usize::from(mapped.address)].protocols[protocol as usize];
        ports.free[slot / 64] &= !(1 << (slot % 64));
        ports.owners[slot] = binding;
    }

    pub fn release(&mut self, protocol: Protocol, mapped: Mapped) {
        let slot = self.slot(mapped.port);
        let ports = &mut self.addresses[usize::from(mapped.address)].protocols[protocol as usize];
        ports.free[slot / 64] |= 1 << (slot % 64);
        ports.owners[slot] = NONE;
    }

    fn slot(&self, port: u16) -> usize {
        usize::from(port / 2) / self.shards * 2 + usize::from(port % 2)
    }

    fn port(&self, slot: usize) -> u16 {
        ((slot / 2 * self.shards + self.shard) * 2 + slot % 2) as u16
    }
}

/// The first bit of `range` that `pick` leaves of its word, searched from a place that `start` chooses and around.
fn find(bits: &[u64], range: std::ops::Range<usize>, pick: impl Fn(u64) -> u64, start: u64) -> Option<usize> {
    if range.is_empty() {
        return None;
    }
    let from = range.start + (start % range.len() as u64) as usize;
    scan(bits, from..range.end, &pick).or_else(|| scan(bits, range.start..from, &pick))
}

fn scan(bits: &[u64], range: std::ops::Range<usize>, pick: impl Fn(u64) -> u64) -> Option<usize> {
    let mut at = range.start;
    while at < range.end {
        let word = pick(bits[at / 64]) & (u64::MAX << (at % 64));
        if word != 0 {
            let found = at / 64 * 64 + word.trailing_zeros() as usize;
            return (found < range.end).then_some(found);
        }
        at = (at / 64 + 1) * 64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::config::PoolEntry;
    use super::super::prefix::Prefix;
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn entry(first: u16, last: u16) -> PoolEntry {
        PoolEntry { address: ADDRESS, first, last }
    }

    fn pool(entries: &[PoolEntry], shard: usize, shards: usize) -> Pool {
        let prefix = Prefix::new("2001:db8::".parse().unwrap(), 96).unwrap();
        let config = Config::new(prefix, entries.to_vec(), "2001:db8:1::1".parse().unwrap());
        Pool::new(&Config { shard, shards, ..config })
    }

    #[test]
    fn a_free_port_is_preserved_and_otherwise_its_parity_and_range() {
        let mut pool = pool(&[entry(600, 700), entry(2000, 3000)], 0, 1);
        let first = pool.choose(Protocol::Udp, 2500, 7, 9).unwrap();
        assert_eq!(first.port, 2500);
        pool.take(Protocol::Udp, first, 0);
        assert_eq!(pool.owner(Protocol::Udp, first), Some(0));
        assert_eq!(pool.owner(Protocol::Tcp, first), None);
        for start in 0..5000 {
            let even = pool.choose(Protocol::Udp, 2500, 7, start).unwrap().port;
            assert!(even.is_multiple_of(2) && (2000..=3000).contains(&even), "{even}");
            let odd = pool.choose(Protocol::Udp, 53, 7, start).unwrap().port;
            assert!(!odd.is_multiple_of(2) && (600..=700).contains(&odd), "{odd}");
        }
        pool.release(Protocol::Udp, first);
        assert_eq!(pool.choose(Protocol::Udp, 2500, 7, 1).unwrap().port, 2500);
    }

    #[test]
    fn every_port_is_handed_out_once_and_by_its_shard() {
        for shards in [1, 2, 3, 8] {
            let mut seen = std::collections::BTreeSet::new();
            for shard in 0..shards {
                let mut pool = pool(&[entry(32_769, 33_000)], shard, shards);
                while let Some(mapped) = pool.choose(Protocol::Tcp, 40_000, 1, 12_345) {
                    assert_eq!(super::super::shards::shard_of_port(mapped.port, shards), shard);
                    pool.take(Protocol::Tcp, mapped, 1);
                    assert!(seen.insert(mapped.port));
                }
            }
            assert_eq!(seen.len(), 232, "{shards} shards");
            assert_eq!((*seen.first().unwrap(), *seen.last().unwrap()), (32_769, 33_000));
        }
    }

    #[test]
    fn a_client_stays_on_its_address_until_that_is_full() {
        let other = PoolEntry { address: Ipv4Addr::new(10, 0, 0, 3), first: 5000, last: 5003 };
        let mut pool = pool(&[entry(5000, 5003), other], 0, 1);
        let mut addresses = Vec::new();
        while let Some(mapped) = pool.choose(Protocol::Tcp, 5000, 1, 0) {
            pool.take(Protocol::Tcp, mapped, 0);
            addresses.push(mapped.address);
        }
        assert_eq!(addresses, [1, 1, 1, 1, 0, 0, 0, 0]);
    }
}
