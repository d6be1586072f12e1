//! Pages of bindings and sessions, filters, and the accounting log.

use super::packets::*;
use super::*;

fn busy(count: u16) -> Bench {
    let mut bench = Bench::new(Config { log_bindings: true, ..config() });
    for port in 0..count {
        bench.pass6(&V6::new(server6(), 17).build(udp(40_000 + port, 53, b"")));
        bench.pass6(&V6::new(server6(), 17).build(udp(40_000 + port, 54, b"")));
    }
    bench
}

#[test]
fn a_walk_in_small_steps_sees_everything_once() {
    let bench = busy(100);
    for (places, entries) in [(1, 1), (7, 3), (64, 1000), (1000, 5)] {
        let (mut from, mut seen) = (Some(0), Vec::new());
        while let Some(place) = from {
            let before = seen.len();
            let step = Step { from: place, places, entries };
            from = bench.nat.walk_sessions(bench.now, &Filter::default(), step, &mut seen);
            assert!(seen.len() - before <= entries.min(places));
        }
        let mut ports: Vec<_> = seen.iter().map(|info| (info.client_port, info.remote_port)).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((seen.len(), ports.len()), (200, 200), "{places} {entries}");
    }
}

#[test]
fn filters() {
    let bench = busy(10);
    let all = Step { from: 0, places: usize::MAX, entries: usize::MAX };
    let count = |filter| {
        let (mut sessions, mut bindings) = (Vec::new(), Vec::new());
        assert_eq!(bench.nat.walk_sessions(bench.now, &filter, all, &mut sessions), None);
        assert_eq!(bench.nat.walk_bindings(&filter, all, &mut bindings), None);
        (sessions.len(), bindings.len())
    };
    let any = Filter::default();
    assert_eq!(count(any), (20, 10));
    assert_eq!(count(Filter { protocol: Some(Protocol::Udp), client: Some(client()), ..any }), (20, 10));
    assert_eq!(count(Filter { protocol: Some(Protocol::Tcp), ..any }), (0, 0));
    assert_eq!(count(Filter { client: Some(gateway6()), ..any }), (0, 0));
    assert_eq!(count(Filter { port: Some(40_003), ..any }), (2, 1));
    assert_eq!(count(Filter { destination: Some(SERVER), ..any }).0, 20);
    assert_eq!(count(Filter { destination: Some(ROUTER), ..any }).0, 0);
}

#[test]
fn the_log_has_each_binding_when_it_begins_and_ends() {
    let mut bench = busy(3);
    bench.after(301);
    let mut rows = Vec::new();
    assert_eq!((bench.nat.log_len(), bench.nat.take_log(4, &mut rows), bench.nat.log_len()), (6, 0, 2));
    bench.nat.take_log(100, &mut rows);
    assert!(rows[..3].iter().all(|row| row.open && row.at == Now::from_secs(1000)));
    assert!(rows[3..].iter().all(|row| !row.open && row.at == Now::from_secs(1301)));
    assert_eq!(
        rows[0],
        LogRow {
            open: true,
            at: Now::from_secs(1000),
            protocol: Protocol::Udp,
            client: client(),
            client_port: 40_000,
            address: POOL,
            port: 40_000
        }
    );
}

#[test]
fn nothing_is_noted_when_the_log_is_off() {
    let mut bench = busy(3);
    assert_eq!(bench.nat.reconfigure(bench.now, config()), Ok(0));
    bench.pass6(&V6::new(server6(), 17).build(udp(50_000, 53, b"")));
    assert_eq!((bench.nat.log_len(), bench.nat.take_log(10, &mut Vec::new())), (0, 0));
}
