//! What may wait in the kernel, for lines of all rates.

use super::super::{Pace, Progress};
use super::*;

/// A line of `rate` bytes a second that always has something to send, for a time.
fn run(pace: &mut Pace, begin: Now, rate: u64, time: Duration) -> Now {
    let mut now = begin;
    let mut acknowledged = 1_000_000;
    while now.since(begin) < time {
        now = now + Duration::from_millis(1);
        acknowledged += rate / 1000;
        if pace.is_due(now) {
            pace.busy(now, Progress { acknowledged, unsent: 1 });
        }
    }
    now
}

#[test]
fn two_milliseconds_of_the_line_wait_in_the_kernel() {
    for (megabits, ahead) in [(1, 4096), (10, 4096), (100, 25_000), (1000, 250_000), (10_000, 262_144)] {
        let mut pace = Pace::default();
        run(&mut pace, Now::from_secs(2), megabits * 125_000, Duration::from_millis(500));
        assert!(pace.ahead().abs_diff(ahead) <= ahead / 20, "{megabits}: {}", pace.ahead());
    }
}

#[test]
fn unknown_rates_are_taken_for_fast() {
    let pace = Pace::default();
    assert!(pace.rate() == 0 && pace.ahead() == 131_072 && pace.grain() == 65_536);
}

#[test]
fn a_line_that_becomes_slow_is_noticed_within_100_ms_and_a_fast_one_at_once() {
    let mut pace = Pace::default();
    let now = run(&mut pace, Now::from_secs(2), 125_000_000, Duration::from_millis(500));
    let now = run(&mut pace, now, 1_250_000, Duration::from_millis(100));
    assert!(pace.rate() < 2_500_000, "{}", pace.rate());
    run(&mut pace, now, 125_000_000, Duration::from_millis(25));
    assert!(pace.rate() > 110_000_000, "{}", pace.rate());
}

#[test]
fn coming_late_says_nothing_about_the_line() {
    let mut pace = Pace::default();
    let now = run(&mut pace, Now::from_secs(2), 12_500_000, Duration::from_millis(500));
    let rate = pace.rate();
    for step in 1..100 {
        let progress = Progress { acknowledged: 7_250_000 + step * 1000, unsent: 0 };
        pace.busy(now + Duration::from_millis(20) * step as u32, progress);
    }
    assert_eq!(pace.rate(), rate);
}

#[test]
fn a_rate_that_was_measured_too_low_is_found_out_though_nothing_waits() {
    let mut pace = Pace::default();
    let mut now = run(&mut pace, Now::from_secs(2), 125_000, Duration::from_millis(500));
    for _ in 0..50 {
        now = now + Duration::from_millis(1);
        pace.took(now, 100_000);
    }
    assert!(pace.rate() > 80_000_000, "{}", pace.rate());
    let rate = pace.rate();
    for _ in 0..50 {
        now = now + Duration::from_millis(1);
        pace.took(now, 100);
    }
    assert_eq!(pace.rate(), rate, "little to send does not make a line slow");
}
