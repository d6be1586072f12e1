//! When flows are told to slow down (RFC 8289), and how (RFC 3168).

use super::super::codel::{INTERVAL, TARGET};
use super::*;

const RATE: u64 = 12_500_000;
const LEN: usize = 1250;

/// A sender of one rate against a line of RATE for a time; returns the queue and the times at which a packet was dropped
/// or marked.
fn overload(times_the_line: u64, ecn: u8, time: Duration) -> (FairQueue, Vec<Duration>) {
    let mut queue = queue(usize::MAX);
    let begin = Now::from_secs(2);
    let (mut now, mut owed) = (begin, 0);
    let mut signals = Vec::new();
    let mut number = 0;
    while now.since(begin) < time {
        now = now + serialization(LEN, RATE);
        owed += times_the_line;
        while owed >= 100 {
            owed -= 100;
            number += 1;
            queue.push(now, &packet(1, number, LEN, ecn), Offload::default());
        }
        let before = queue.counters().dropped_delay + queue.counters().marked;
        queue.pop(now);
        for _ in before..queue.counters().dropped_delay + queue.counters().marked {
            signals.push(now.since(begin));
        }
    }
    (queue, signals)
}

#[test]
fn a_queue_that_drains_is_let_alone() {
    let mut queue = queue(usize::MAX);
    let mut now = Now::from_secs(2);
    for round in 0..20 {
        // 80 ms worth at once, then silence: long waits, but never for an interval.
        for number in 0..800 {
            push(&mut queue, now, 1, round * 1000 + number, LEN);
        }
        while queue.pop(now).is_some() {
            now = now + serialization(LEN, RATE);
        }
        now = now + INTERVAL;
    }
    assert_eq!((queue.counters().dropped_delay, queue.counters().marked), (0, 0));
    assert!(queue.counters().longest > TARGET * 10);
}

#[test]
fn a_standing_queue_is_signalled_after_an_interval_and_then_ever_more_often() {
    let (_, signals) = overload(110, 0, Duration::from_secs(3));
    let first = signals[0];
    assert!(first > INTERVAL && first < INTERVAL * 3, "{first:?}");
    // The n-th signal comes INTERVAL / sqrt(n) after the one before it (RFC 8289 section 5.3).
    for (index, pair) in signals.windows(2).take(20).enumerate() {
        let expected = INTERVAL.as_secs_f64() / ((index + 1) as f64).sqrt();
        let got = (pair[1] - pair[0]).as_secs_f64();
        assert!((got - expected).abs() < 0.002, "signal {}: {got} for {expected}", index + 2);
    }
}

#[test]
fn senders_that_understand_marks_lose_nothing() {
    for ecn in [1, 2, 3] {
        let (mut queue, signals) = overload(110, ecn, Duration::from_secs(2));
        let counters = *queue.counters();
        assert!(counters.marked as usize == signals.len() && counters.marked > 10, "{counters:?}");
        assert_eq!(counters.dropped_delay, 0);
        let packet = queue.pop(Now::from_secs(100)).unwrap();
        assert_eq!(packet.bytes[1] & 0x30, 0x30, "a mark is both bits");
        assert_eq!(packet.bytes[0], 0x60);
    }
    let (queue, signals) = overload(110, 0, Duration::from_secs(2));
    assert_eq!((queue.counters().marked, queue.counters().dropped_delay), (0, signals.len() as u64));
}

#[test]
fn only_the_flow_that_has_the_queue_is_signalled() {
    let mut queue = queue(usize::MAX);
    let mut now = Now::from_secs(2);
    let mut longest = Duration::ZERO;
    let (mut arrived, mut got) = (HashMap::new(), 0);
    for number in 0..20_000 {
        now = now + serialization(LEN, RATE);
        push(&mut queue, now, 1, number, LEN);
        if number % 10 == 0 {
            push(&mut queue, now, 2, number, 100);
            arrived.insert(number, now);
        }
        let packet = queue.pop(now).unwrap();
        if flow_of(&packet) == 2 {
            got += 1;
            longest = longest.max(now.since(arrived[&number_of(&packet)]));
        }
    }
    assert!(queue.counters().dropped_delay > 10);
    assert!(got >= 1999, "{got}");
    assert!(longest < Duration::from_millis(1), "{longest:?}");
}

#[test]
fn a_last_packet_is_never_dropped_however_slow_the_line() {
    let mut queue = queue(usize::MAX);
    let mut now = Now::from_secs(2);
    for number in 0..100 {
        push(&mut queue, now, 1, number, LEN);
        now = now + Duration::from_secs(1);
        assert!(queue.pop(now).is_some());
    }
    assert_eq!(queue.counters().dropped_delay, 0);
}

use std::collections::HashMap;
