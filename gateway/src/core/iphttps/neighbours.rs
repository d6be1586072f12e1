//! Who owns which address: the Client Table and Neighbor Cache of \[MS-IPHTTPS\] 3.2, for several worker threads.
//!
//! Two rules keep this correct without a lock on the packet path:
//! * A session's addresses change under the lock of their shard and then the lock of the session, in that order.
//! * Whoever takes an address away from a session, or wants to know whether it lives, raises the session's
//!   *generation*. The session's worker compares that one atomic with its own copy before each packet; while they are
//!   equal, its private list of owned addresses is true.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::{Identity, SessionId};
use crate::core::impossible::{Impossible, happened};
use crate::core::time::Now;

const SHARDS: usize = 64;
/// Addresses that are being probed at the same time.
const MAX_PROBES: usize = 1024;
/// Sessions that wait for the outcome of one probe.
const MAX_ASKERS: usize = 4;
/// Solicitations to a silent owner and the time between them: RFC 4861 section 10, MAX_UNICAST_SOLICIT, RETRANS_TIMER.
const PROBE_COUNT: u8 = 3;
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// What other threads may know of a session.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: SessionId,
    pub(super) identity: Option<Arc<Identity>>,
    generation: AtomicU32,
    /// When a packet last came from the session, to a tenth of a second.
    last_heard: AtomicU64,
    state: Mutex<MemberState>,
}

#[derive(Debug, Default)]
struct MemberState {
    closed: bool,
    addresses: Vec<Ipv6Addr>,
}

impl Member {
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    fn raise(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn heard(&self, now: Now) {
        self.last_heard.store(now.0, Ordering::Relaxed);
    }

    pub(super) fn last_heard(&self) -> Now {
        Now(self.last_heard.load(Ordering::Relaxed))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn addresses(&self) -> Vec<Ipv6Addr> {
        self.state.lock().addresses.clone()
    }

    fn same_machine(&self, other: &Self) -> bool {
        matches!((&self.identity, &other.identity), (Some(one), Some(two)) if one.same_machine(two))
    }
}

/// What became of a wish for an address.
#[derive(Debug)]
pub(super) enum Claim {
    /// It was the session's already.
    Held,
    /// It is now.
    New,
    /// It is now; the same machine held it on this older session, which has to go.
    TakenOver(Arc<Member>),
    /// Another session has it.
    InUse(Arc<Member>),
    /// The session has too many addresses.
    Limit,
    /// The session is closed.
    Closed,
}

#[derive(Debug)]
struct Probe {
    owner: Arc<Member>,
    started: Now,
    sent: u8,
    next: Now,
    /// Who wants the address, and whether a duplicate address probe of theirs waits for a defence.
    askers: Vec<(SessionId, bool)>,
}

/// The outcome of a probe.
#[derive(Debug)]
pub(super) enum Probed {
    /// Ask the owner again.
    Ask { owner: SessionId, address: Ipv6Addr },
    /// The owner lives: defend the address against these.
    Alive { address: Ipv6Addr, askers: Vec<SessionId> },
    /// The owner is silent and has to go; the first of these that is still there gets the address.
    Silent { owner: Arc<Member>, address: Ipv6Addr, askers: Vec<SessionId> },
}

/// How many entries there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    pub sessions: usize,
    pub addresses: usize,
    pub probes: usize,
}

type Shards<K> = Box<[RwLock<HashMap<K, Arc<Member>>>]>;

#[derive(Debug)]
pub(super) struct Neighbours {
    owners: Shards<Ipv6Addr>,
    members: Shards<SessionId>,
    count: AtomicUsize,
    probes: Mutex<HashMap<Ipv6Addr, Probe>>,
}

fn shard(bits: u64) -> usize {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % SHARDS
}

impl Neighbours {
    pub(super) fn new() -> Self {
        Self {
            owners: (0..SHARDS).map(|_| RwLock::default()).collect(),
            members: (0..SHARDS).map(|_| RwLock::default()).collect(),
            count: AtomicUsize::new(0),
            probes: Mutex::default(),
        }
    }

    fn owners_of(&self, address: Ipv6Addr) -> &RwLock<HashMap<Ipv6Addr, Arc<Member>>> {
        let bits = u128::from(address);
        &self.owners[shard(bits as u64 ^ (bits >> 64) as u64)]
    }

    fn members_of(&self, id: SessionId) -> &RwLock<HashMap<SessionId, Arc<Member>>> {
        &self.members[shard(id.0)]
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn sizes(&self) -> TableSizes {
        TableSizes {
            sessions: self.members.iter().map(|members| members.read().len()).sum(),
            addresses: self.owners.iter().map(|owners| owners.read().len()).sum(),
            probes: self.probes.lock().len(),
        }
    }

    /// Adds a session, unless there are `max` already.
    pub(super) fn add(
        &self,
        now: Now,
        id: SessionId,
        identity: Option<Arc<Identity>>,
        max: usize,
    ) -> Option<Arc<Member>> {
        let room = |count: usize| Some(count + 1).filter(|&count| count <= max);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let member = Arc::new(Member {
            id,
            identity,
            generation: AtomicU32::new(0),
            last_heard: AtomicU64::new(now.0),
            state: Mutex::default(),
        });
        let before = self.members_of(id).write().insert(id, Arc::clone(&member));
        if before.is_some() {
            happened(Impossible::SessionTwice);
        }
        Some(member)
    }

    /// Closes a session and frees its addresses. False when it was closed before.
    pub(super) fn remove(&self, member: &Arc<Member>) -> bool {
        let addresses = {
            let mut state = member.state.lock();
            if state.closed {
                return false;
            }
            state.closed = true;
            std::mem::take(&mut state.addresses)
        };
        member.raise();
        for address in addresses {
            self.forget(address, member);
        }
        self.members_of(member.id).write().remove(&member.id);
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    fn forget(&self, address: Ipv6Addr, member: &Arc<Member>) {
        let mut owners = self.owners_of(address).write();
        if owners.get(&address).is_some_and(|owner| Arc::ptr_eq(owner, member)) {
            owners.remove(&address);
        }
    }

    /// Gives one address of a session back.
    pub(super) fn release(&self, address: Ipv6Addr, member: &Arc<Member>) {
        self.forget(address, member);
        member.state.lock().addresses.retain(|&held| held != address);
        member.raise();
    }

    /// Takes away every address for which `keep` is false.
    pub(super) fn retain(&self, keep: impl Fn(Ipv6Addr) -> bool) {
        for owners in &self.owners {
            owners.write().retain(|&address, owner| {
                let kept = keep(address);
                if !kept {
                    owner.state.lock().addresses.retain(|&held| held != address);
                    owner.raise();
                }
                kept
            });
        }
    }

    pub(super) fn owner_id(&self, address: Ipv6Addr) -> Option<SessionId> {
        self.owners_of(address).read().get(&address).map(|owner| owner.id)
    }

    pub(super) fn member(&self, id: SessionId) -> Option<Arc<Member>> {
        self.members_of(id).read().get(&id).cloned()
    }

    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        self.members.iter().flat_map(|members| members.read().values().cloned().collect::<Vec<_>>()).collect()
    }

    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.members.iter().flat_map(|members| members.read().keys().copied().collect::<Vec<_>>()).collect()
    }

    /// Makes `member` the owner of an address unless another live session is. At most `max` addresses each.
    pub(super) fn claim(&self, address: Ipv6Addr, member: &Arc<Member>, max: usize) -> Claim {
        let mut owners = self.owners_of(address).write();
        let owner = owners.get(&address).cloned();
        if let Some(owner) = &owner {
            if Arc::ptr_eq(owner, member) {
                return Claim::Held;
            }
            if !owner.same_machine(member) {
                return Claim::InUse(Arc::clone(owner));
            }
        }
        {
            let mut state = member.state.lock();
            if state.closed {
                return Claim::Closed;
            }
            if state.addresses.len() >= max {
                return Claim::Limit;
            }
            state.addresses.push(address);
        }
        owners.insert(address, Arc::clone(member));
        let Some(owner) = owner else { return Claim::New };
        owner.state.lock().addresses.retain(|&held| held != address);
        owner.raise();
        Claim::TakenOver(owner)
    }

    /// Wants to know whether the owner of an address lives. True when a solicitation must be sent to it now; false when
    /// one is out already or the table of probes is full.
    pub(super) fn probe(
        &self,
        now: Now,
        address: Ipv6Addr,
        owner: &Arc<Member>,
        asker: SessionId,
        defend: bool,
    ) -> bool {
        let mut probes = self.probes.lock();
        if let Some(probe) = probes.get_mut(&address).filter(|probe| Arc::ptr_eq(&probe.owner, owner)) {
            if let Some((_, waits)) = probe.askers.iter_mut().find(|(session, _)| *session == asker) {
                *waits |= defend;
            } else if probe.askers.len() < MAX_ASKERS {
                probe.askers.push((asker, defend));
            }
            return false;
        }
        if probes.len() >= MAX_PROBES {
            return false;
        }
        let (owner, next) = (Arc::clone(owner), now + PROBE_INTERVAL);
        owner.raise();
        probes.insert(address, Probe { owner, started: now, sent: 1, next, askers: vec![(asker, defend)] });
        true
    }

    /// The session was heard: its probes are answered.
    pub(super) fn answered(&self, member: &Arc<Member>) -> Vec<Probed> {
        let mut probes = self.probes.lock();
        let mine = |probe: &Probe| Arc::ptr_eq(&probe.owner, member);
        let addresses: Vec<_> = probes.iter().filter(|(_, probe)| mine(probe)).map(|(&address, _)| address).collect();
        addresses.into_iter().filter_map(|address| Some(alive(address, probes.remove(&address)?))).collect()
    }

    /// What is due for the probes, and when to ask again.
    pub(super) fn due_probes(&self, now: Now) -> (Vec<Probed>, Option<Now>) {
        let mut outcomes = Vec::new();
        let mut probes = self.probes.lock();
        let due: Vec<_> = probes.iter().filter(|(_, probe)| probe.next <= now).map(|(&address, _)| address).collect();
        for address in due {
            let Some(mut probe) = probes.remove(&address) else { continue };
            if probe.owner.is_closed() {
                continue;
            }
            if probe.owner.last_heard() > probe.started {
                outcomes.push(alive(address, probe));
            } else if probe.sent < PROBE_COUNT {
                (probe.sent, probe.next) = (probe.sent + 1, now + PROBE_INTERVAL);
                outcomes.push(Probed::Ask { owner: probe.owner.id, address });
                probes.insert(address, probe);
            } else {
                let askers = probe.askers.into_iter().map(|(asker, _)| asker).collect();
                outcomes.push(Probed::Silent { owner: probe.owner, address, askers });
            }
        }
        (outcomes, probes.values().map(|probe| probe.next).min())
    }
}

fn alive(address: Ipv6Addr, probe: Probe) -> Probed {
    let askers = probe.askers.into_iter().filter(|&(_, defend)| defend).map(|(asker, _)| asker).collect();
    Probed::Alive { address, askers }
}
