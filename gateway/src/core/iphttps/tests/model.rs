//! Random histories of sessions and addresses, held against what must always be true.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const HOST: &str = "fd7c:1a2b:3c4d:1::6";

#[derive(Clone, Debug)]
enum Step {
    /// A session of one of three machines; the fourth never appears twice.
    Join(u8),
    Leave(usize),
    Data(usize, u16),
    Probe(usize, u16),
    Solicit(usize, u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let address = || 1u16..6;
    prop_oneof![
        1 => (0u8..4).prop_map(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        4 => (any::<usize>(), address()).prop_map(|(session, host)| Step::Data(session, host)),
        3 => (any::<usize>(), address()).prop_map(|(session, host)| Step::Probe(session, host)),
        1 => (any::<usize>(), address()).prop_map(|(session, host)| Step::Solicit(session, host)),
        3 => prop_oneof![Just(10u64), Just(999), Just(1000), Just(31_000)].prop_map(Step::Wait),
    ]
}

/// The dialogue, and which of its sessions are evicted or gone.
struct History {
    dialogue: Dialogue,
    left: BTreeSet<u64>,
    evicted: BTreeSet<u64>,
}

impl History {
    /// A session that has not left, if there is any.
    fn pick(&self, number: usize) -> Option<u64> {
        let present: Vec<_> =
            (1..=self.dialogue.attachments.len() as u64).filter(|id| !self.left.contains(id)).collect();
        (!present.is_empty()).then(|| present[number % present.len()])
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Join(machine) => {
                let alive = self.dialogue.link.sessions();
                if alive < 10 {
                    let unique = self.dialogue.attachments.len();
                    let name = if machine == 3 { format!("unique{unique}") } else { format!("machine{machine}") };
                    self.dialogue.join(&name);
                }
            }
            Step::Leave(number) => {
                if let Some(id) = self.pick(number) {
                    // Detaching consumes an attachment, so a closed stand-in takes its place in the list.
                    let other = Link::new(config(Authentication::None), Now(0)).unwrap();
                    let stand_in = other.attach(Now(0), SessionId(id), None).unwrap();
                    let gone = std::mem::replace(&mut self.dialogue.attachments[id as usize - 1], stand_in);
                    self.dialogue.link.detach(gone);
                    self.left.insert(id);
                }
            }
            Step::Data(number, host) => self.packet(number, host, &udp(client(host), ip(HOST))),
            Step::Probe(number, host) => self.packet(number, host, &probe(client(host))),
            Step::Solicit(number, host) => self.packet(number, host, &router_solicitation(client(host))),
            Step::Wait(milliseconds) => self.dialogue.wait(milliseconds),
        }
        for sent in self.dialogue.sent() {
            match sent {
                Sent::Evict(id, reason) => {
                    assert!(matches!(reason, CloseReason::Replaced | CloseReason::Silent));
                    assert!(self.evicted.insert(id), "evicted once");
                }
                Sent::Learned(id, address) => assert_eq!(self.dialogue.link.owner(address), Some(SessionId(id))),
                Sent::To(id, _) | Sent::AllBut(id, _) => assert!(!self.left.contains(&id), "nothing to who has left"),
            }
        }
    }

    fn packet(&mut self, number: usize, host: u16, packet: &[u8]) {
        let Some(id) = self.pick(number) else { return };
        let outcome = self.dialogue.receive(id, packet);
        if self.evicted.contains(&id) {
            assert_eq!(outcome, FromClient::Drop(DropReason::Evicted));
        } else if outcome == FromClient::ToHost {
            assert_eq!(self.dialogue.link.owner(client(host)), Some(SessionId(id)));
        }
    }

    fn check(&self) {
        let (link, attachments) = (&self.dialogue.link, &self.dialogue.attachments);
        let gone = |id: u64| self.left.contains(&id) || self.evicted.contains(&id);
        let alive = (1..=attachments.len() as u64).filter(|&id| !gone(id)).count();
        assert_eq!(link.sessions(), alive);
        for attachment in attachments.iter().filter(|attachment| !self.left.contains(&attachment.session().0)) {
            let addresses = attachment.addresses();
            assert!(addresses.len() <= 3);
            assert!(addresses.is_empty() || !gone(attachment.session().0));
            for address in addresses {
                assert_eq!(link.owner(address), Some(attachment.session()));
            }
        }
        for owner in (1..6).filter_map(|host| Some((client(host), link.owner(client(host))?))) {
            assert!(!gone(owner.1.0));
            assert!(attachments[owner.1.0 as usize - 1].addresses().contains(&owner.0));
        }
    }
}

proptest! {
    #[test]
    fn an_address_has_one_living_owner_at_any_time(
        steps in prop::collection::vec(step(), 1..80), certificates in any::<bool>(),
    ) {
        let mode = if certificates { Authentication::Certificates } else { Authentication::None };
        let mut history =
            History { dialogue: Dialogue::new(mode, 0), left: BTreeSet::new(), evicted: BTreeSet::new() };
        for machine in 0..3 {
            history.take(&Step::Join(machine));
        }
        for step in &steps {
            history.take(step);
            history.check();
        }
    }
}

#[test]
fn an_idle_session_is_small() {
    let size = size_of::<Session>() + size_of::<Attachment>() + size_of::<Deframer>();
    assert!(size <= 512, "{size} bytes");
}
