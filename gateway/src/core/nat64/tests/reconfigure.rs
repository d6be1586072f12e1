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
    assert_eq!(bench.nat.reconfigure(bench.now, Config { pool, ..config() }), Ok(1));
    assert_eq!(answer(&mut bench, 40_000), Verdict::Forward);
    assert_ne!(answer(&mut bench, 50_000), Verdict::Forward);
    let left: Vec<_> = bench.nat.bindings().iter().map(|info| (info.address, info.port)).collect();
    assert_eq!(left, [(POOL, 40_000)]);
    assert_eq!(bench.nat.stats().sessions, 1);
    // What was freed is whole: the port is not handed out twice, and back in the old pool everything works again.
    assert_ne!(ask(&mut bench, 50_000), 40_000);
    assert_eq!(bench.nat.reconfigure(bench.now, config()), Ok(1));
    assert_eq!(ask(&mut bench, 50_000), 50_000);
    assert_eq!(answer(&mut bench, 40_000), Verdict::Forward);
}

#[test]
fn new_timeouts_count_from_the_next_packet() {
    let mut bench = Bench::new(config());
    ask(&mut bench, 40_000);
    let timeouts = Timeouts { udp: Duration::from_secs(1000), ..Timeouts::default() };
    assert_eq!(bench.nat.reconfigure(bench.now, Config { timeouts, ..config() }), Ok(0));
    ask(&mut bench, 40_000);
    assert!(bench.nat.sessions(bench.now).iter().all(|info| (999..=1000).contains(&info.expires_in)));
}

#[test]
fn lower_limits_stop_new_bindings_only() {
    let mut bench = Bench::new(config());
    ask(&mut bench, 40_000);
    ask(&mut bench, 40_002);
    assert_eq!(bench.nat.reconfigure(bench.now, Config { max_bindings_per_client: 1, ..config() }), Ok(0));
    assert_eq!(answer(&mut bench, 40_002), Verdict::Forward);
    let refused = bench.v6(&V6::new(server6(), 17).build(udp(40_004, 53, b"question"))).0;
    assert!(!matches!(refused, Verdict::Forward), "{refused:?}");
}

#[test]
fn an_impossible_configuration_changes_nothing() {
    let mut bench = Bench::new(config());
    ask(&mut bench, 40_000);
    assert_eq!(bench.nat.reconfigure(bench.now, Config { pool: Vec::new(), ..config() }), Err(ConfigError::EmptyPool));
    assert_eq!(answer(&mut bench, 40_000), Verdict::Forward);
}

#[test]
fn another_prefix_for_a_network_ends_the_sessions_with_its_hosts_only() {
    let mut bench = Bench::new(config());
    let near: Ipv6Addr = "fd7c:1a2b:3c4d:7777::c000:201".parse().unwrap();
    bench.pass6(&V6::new(near, 17).build(udp(40_000, 53, b"")));
    ask(&mut bench, 40_002);
    let other = Prefix::new("fd7c:1a2b:3c4d:8888::".parse().unwrap(), 96).unwrap();
    let all = Mapping { prefix: prefix(), network: Ipv4Addr::UNSPECIFIED, length: 0 };
    let ten = Mapping { prefix: other, network: Ipv4Addr::new(10, 0, 0, 0), length: 8 };
    let mappings = Mappings::new(vec![all, ten]).unwrap();
    assert_eq!(bench.nat.reconfigure(bench.now, Config { mappings, ..config() }), Ok(1));
    let left: Vec<_> = bench.nat.sessions(bench.now).iter().map(|info| info.client_port).collect();
    assert_eq!(left, [40_000]);
    // The server is known by its new address, and only by that.
    let (verdict, error) = bench.v6(&V6::new(server6(), 17).build(udp(40_004, 53, b"")));
    assert_eq!((verdict, &error[40..42]), (Verdict::Reply, &[1, 0][..]));
    let server: Ipv6Addr = "fd7c:1a2b:3c4d:8888::a00:4".parse().unwrap();
    bench.pass6(&V6::new(server, 17).build(udp(40_004, 53, b"")));
    assert_eq!(address6(&bench.pass4(&V4::new(SERVER, 17).build(udp(53, 40_004, b""))), 8), server);
}

#[test]
fn the_filter_changes_under_sessions() {
    let mut bench = Bench::new(config());
    ask(&mut bench, 40_000);
    let stranger = V4::new(ROUTER, 17).build(udp(9, 40_000, b""));
    let filtering = Filtering::AddressDependent;
    assert_eq!(bench.nat.reconfigure(bench.now, Config { filtering, ..config() }), Ok(0));
    assert_eq!(bench.v4(&stranger).0, Verdict::Reply);
    assert_eq!(answer(&mut bench, 40_000), Verdict::Forward);
    assert_eq!(bench.nat.reconfigure(bench.now, config()), Ok(0));
    assert_eq!(bench.v4(&stranger).0, Verdict::Forward);
    bench.after(1000);
    assert_eq!(bench.nat.stats().bindings, 0);
}

#[test]
fn hosts_without_a_prefix_are_not_translated() {
    let ten = Mapping { prefix: prefix(), network: Ipv4Addr::new(10, 0, 0, 0), length: 8 };
    let mut bench = Bench::new(Config { mappings: Mappings::new(vec![ten]).unwrap(), ..config() });
    ask(&mut bench, 40_000);
    let far = V4::new(Ipv4Addr::new(192, 0, 2, 1), 17).build(udp(9, 40_000, b""));
    assert_eq!(bench.v4(&far).0, Verdict::Drop(Reason::NoPrefix));
    assert_eq!(bench.nat.stats().sessions, 1);
}
