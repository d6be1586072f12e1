//! Another configuration while connections run.

use std::time::Duration;

use super::packets::*;
use super::*;

/// A binding made from a client's port that the pool has, so that it keeps its number.
fn ask(bench: &mut Bench, port: u16) -> u16 {
    let packet = V6::new(server6(), 17).build(udp(port, 53, b"question"));
    word16(&bench.pass6(&packet), 20)
}

fn answer(bench: &mut Bench, port: u16) -> Verdict {
    bench.v4(&V4::new(SERVER, 17).build(udp(53, port, b"answer"))).0
}

#[test]
fn bindings_that_fit_the_new_pool_stay() {
    let mut bench = Bench::new(config());
    assert_eq!((ask(&mut bench, 40_000), ask(&mut bench, 50_000)), (40_000, 50_000));
    let other = PoolEntry { address: Ipv4Addr::new(10, 0, 0, 9), first: 1024, last: 2047 };
    let pool = vec![other, PoolEntry { address: POOL, first: 39_000, last: 41_000 }];
    assert_eq!(bench.nat.reconfigure(Config { pool, ..config() }), Ok(1));
    assert_eq!(answer(&mut bench, 40_000), Verdict::Forward);
    assert_ne!(answer(&mut bench, 50_000), Verdict::Forward);
    let left: Vec<_> = bench.nat.bindings().iter().map(|info| (info.address, info.port)).collect();
    assert_eq!(left, [(POOL, 40_000)]);
    assert_eq!(bench.nat.stats().sessions, 1);
    // What was freed is whole: the port is not handed out twice, and back in the old pool everything works again.
    assert_ne!(ask(&mut bench, 50_000), 40_000);
    assert_eq!(bench.nat.reconfigure(config()), Ok(1));
    assert_eq!(ask(&mut bench, 50_000), 50_000);
    assert_eq!(answer(&mut bench, 40_000), Verdict::Forward);
}

#[test]
fn new_timeouts_count_from_the_next_packet() {
    let mut bench = Bench::new(config());
    ask(&mut bench, 40_000);
    let timeouts = Timeouts { udp: Duration::from_secs(1000), ..Timeouts::default() };
    assert_eq!(bench.nat.reconfigure(Config { timeouts, ..config() }), Ok(0));
    ask(&mut bench, 40_000);
    assert!(bench.nat.sessions(bench.now).iter().all(|info| (999..=1000).contains(&info.expires_in)));
}

#[test]
fn lower_limits_stop_new_bindings_only() {
    let mut bench = Bench::new(config());
    ask(&mut bench, 40_000);
    ask(&mut bench, 40_002);
    assert_eq!(bench.nat.reconfigure(Config { max_bindings_per_client: 1, ..config() }), Ok(0));
    assert_eq!(answer(&mut bench, 40_002), Verdict::Forward);
    let refused = bench.v6(&V6::new(server6(), 17).build(udp(40_004, 53, b"question"))).0;
    assert!(!matches!(refused, Verdict::Forward), "{refused:?}");
}

#[test]
fn an_impossible_configuration_changes_nothing() {
    let mut bench = Bench::new(config());
    ask(&mut bench, 40_000);
    assert_eq!(bench.nat.reconfigure(Config { pool: Vec::new(), ..config() }), Err(ConfigError::EmptyPool));
    assert_eq!(answer(&mut bench, 40_000), Verdict::Forward);
}
