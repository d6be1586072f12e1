//! Memory: of one queue, of all, and of those that rest.

use super::*;
use crate::core::frame::SegmentKind;
use crate::core::segments::samples::tcp6;

#[test]
fn the_fattest_flow_pays_for_what_does_not_fit() {
    let mut queue = queue(200_000);
    let now = Now::from_secs(2);
    for number in 0..20 {
        push(&mut queue, now, 2, number, 500);
    }
    for number in 0..10_000 {
        push(&mut queue, now, 1, number, 1400);
        assert!(queue.bytes() <= 200_000);
    }
    let dropped = queue.counters().dropped_full;
    assert!(dropped > 9_800, "{dropped}");
    let mut thin = 0;
    let mut first_fat = None;
    while let Some(packet) = queue.pop(now) {
        match flow_of(&packet) {
            2 => thin += 1,
            _ => first_fat = first_fat.or(Some(number_of(&packet))),
        }
    }
    assert_eq!(thin, 20, "those who are not to blame lose nothing");
    assert_eq!(first_fat, Some(dropped as u32), "the oldest went, so that the sender learns it soon");
}

#[test]
fn packets_of_no_size_cost_memory_as_well() {
    let mut queue = queue(100_000);
    for number in 0..10_000 {
        push(&mut queue, Now::from_secs(2), number as u16, number, 60);
    }
    assert!(queue.bytes() <= 100_000);
    assert!(queue.len() < 100_000 / 100, "{}", queue.len());
}

#[test]
fn sessions_share_one_budget_and_newcomers_find_room() {
    let budget = Arc::new(Budget::new(1_000_000));
    let now = Now::from_secs(2);
    let open = || FairQueue::new(now, 7, usize::MAX, budget.clone());
    let fill = |queue: &mut FairQueue, flow| (0..2000).for_each(|number| push(queue, now, flow, number, 1400));
    let mut greedy = open();
    fill(&mut greedy, 1);
    assert!((450_000..=510_000).contains(&greedy.bytes()), "{}", greedy.bytes());
    let mut others: Vec<_> = (0..8).map(|_| open()).collect();
    for queue in &mut others {
        fill(queue, 2);
        assert!(queue.bytes() > 1500, "{}", queue.bytes());
    }
    // The first one pays as soon as it wants more, and when all want more all have the same.
    for _ in 0..1000 {
        for queue in others.iter_mut().chain([&mut greedy]) {
            push(queue, now, 1, 9999, 1400);
            assert!(budget.used() <= budget.limit());
        }
    }
    let held: Vec<_> = others.iter().chain([&greedy]).map(FairQueue::bytes).collect();
    assert!(held.iter().all(|bytes| (70_000..=130_000).contains(bytes)), "{held:?}");
    let dropped = others.iter().chain([&greedy]).map(|queue| queue.counters().dropped_full);
    assert_eq!(budget.refused(), dropped.sum::<u64>());
    drop(others);
    fill(&mut greedy, 1);
    assert!(greedy.bytes() > 450_000);
    drop(greedy);
    assert_eq!(budget.used(), 0);
}

#[test]
fn an_emptied_queue_holds_only_its_tables() {
    let mut queue = queue(LIMIT);
    for number in 0..500 {
        push(&mut queue, Now::from_secs(2), 1, number, 1400);
    }
    while queue.pop(Now::from_secs(2)).is_some() {}
    assert!(queue.bytes() <= FairQueue::RESTING + 200 && FairQueue::RESTING < 4096, "{}", queue.bytes());
}

#[test]
fn super_segments_are_cut_to_turns_of_a_slow_line_and_stay_whole_on_a_fast_one() {
    let offload = Offload { kind: SegmentKind::Tcp, segment_size: 1220, partial_checksum: true };
    let packet = tcp6(1, &[3; 50 * 1220], 0x18);
    let now = Now::from_secs(2);
    for (grain, pieces) in [(65_536, 1), (12_500, 5), (1500, 50)] {
        let mut queue = queue(LIMIT);
        queue.set_grain(grain, Duration::ZERO);
        queue.push(now, &packet, offload);
        assert_eq!(queue.len(), pieces);
        let mut payload = 0;
        while let Some(piece) = queue.pop(now) {
            assert!(piece.bytes.len() <= grain.max(1514));
            payload += piece.bytes.len() - 60;
        }
        assert_eq!(payload, 50 * 1220);
    }
}
