//! Who is served when (RFC 8290).

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[test]
fn flows_that_always_have_packets_share_by_bytes_and_not_by_packets() {
    let mut queue = queue(usize::MAX);
    let now = Now::from_secs(2);
    for number in 0..2000 {
        push(&mut queue, now, 1, number, 1400);
        push(&mut queue, now, 2, number, 200);
        push(&mut queue, now, 3, number, 700);
    }
    let mut bytes: HashMap<u16, usize> = HashMap::new();
    for _ in 0..1000 {
        let packet = queue.pop(now).unwrap();
        *bytes.entry(flow_of(&packet)).or_default() += packet.bytes.len();
    }
    let (least, most) = (bytes.values().min().unwrap(), bytes.values().max().unwrap());
    assert!(bytes.len() == 3 && most - least <= 3 * 1514, "{bytes:?}");
}

#[test]
fn a_new_flow_passes_those_that_have_a_queue() {
    let mut queue = queue(usize::MAX);
    let now = Now::from_secs(2);
    for number in 0..100 {
        for flow in 1..5 {
            push(&mut queue, now, flow, number, 1400);
        }
    }
    for _ in 0..10 {
        queue.pop(now).unwrap();
    }
    push(&mut queue, now, 9, 0, 100);
    assert_eq!(flow_of(&queue.pop(now).unwrap()), 9);
}

#[test]
fn a_flow_that_comes_again_and_again_is_not_new_each_time() {
    let mut queue = queue(usize::MAX);
    let now = Now::from_secs(2);
    for number in 0..100 {
        push(&mut queue, now, 1, number, 1400);
    }
    let mut served = 0;
    for number in 0..100 {
        push(&mut queue, now, 2, number, 1400);
        served += u32::from(flow_of(&queue.pop(now).unwrap()) == 2);
    }
    assert!((45..=55).contains(&served), "{served}");
}

#[test]
fn echo_requests_and_fragments_and_labels_are_flows() {
    let seed = crate::core::nat64::hash::Seed(3);
    let number = |packet: &[u8]| super::super::flow::number(packet, seed);
    let mut echo = packet(0, 0, 64, 0);
    echo[6] = 58;
    echo[40..46].copy_from_slice(&[128, 0, 1, 2, 0, 7]);
    let mut later = echo.clone();
    later[42..48].copy_from_slice(&[9, 9, 0, 7, 0, 2]);
    assert_eq!(number(&echo), number(&later), "one ping, another sequence number");
    later[45] = 8;
    assert_ne!(number(&echo), number(&later), "another ping");
    let mut first = packet(5, 0, 100, 0);
    first[6] = 44;
    let mut second = first.clone();
    second[40..60].fill(0x55);
    assert_eq!(number(&first), number(&second), "fragments stay together");
    let mut hidden = packet(5, 0, 100, 0);
    hidden[6] = 60;
    let mut labelled = hidden.clone();
    labelled[3] = 1;
    assert_ne!(number(&hidden), number(&labelled), "the label tells where nothing else does");
    let (plain, mut labelled) = (packet(5, 0, 100, 0), packet(5, 0, 100, 3));
    labelled[3] = 1;
    assert_eq!(number(&plain), number(&labelled), "the label does not part a flow of known ports");
    let other = super::super::flow::number(&plain, crate::core::nat64::hash::Seed(4));
    assert_ne!(number(&plain), other, "the seed decides");
    for len in 0..60 {
        number(&plain[..len]);
    }
}

proptest! {
    /// Whatever is pushed and popped when: each flow keeps its order, and each packet is sent or counted as dropped.
    #[test]
    fn order_within_a_flow_and_nothing_uncounted(
        steps in prop::collection::vec((0u16..6, 40usize..3000, 0u64..20_000, 0u8..4, any::<bool>()), 1..400),
        limit in 4000usize..200_000,
    ) {
        let mut queue = queue(limit);
        let mut now = Now::from_secs(2);
        let mut last: HashMap<u16, u32> = HashMap::new();
        let mut sent = 0;
        for (number, (flow, len, wait, pops, marked)) in steps.iter().enumerate() {
            now = now + Duration::from_micros(*wait);
            queue.push(now, &packet(*flow, number as u32 + 1, *len, u8::from(*marked)), Offload::default());
            prop_assert!(queue.bytes() <= limit.max(FairQueue::RESTING + 2000) || queue.is_empty());
            for _ in 0..*pops {
                let Some(packet) = queue.pop(now) else { break };
                sent += 1;
                let before = last.insert(flow_of(&packet), number_of(&packet)).unwrap_or(0);
                prop_assert!(before < number_of(&packet));
            }
        }
        while queue.pop(now).is_some() {
            sent += 1;
        }
        let counters = queue.counters();
        prop_assert_eq!(counters.sent, sent);
        prop_assert_eq!(counters.queued, sent + counters.dropped_delay + counters.dropped_full);
        prop_assert_eq!(counters.queued, steps.len() as u64);
        prop_assert!(queue.is_empty());
    }
}
