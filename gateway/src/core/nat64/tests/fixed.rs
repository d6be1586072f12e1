//! Static bindings: there before the client speaks, steered to the shard of their client, changed while others run.

use super::packets::*;
use super::*;

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

fn ssh() -> StaticBinding {
    StaticBinding { protocol: Protocol::Tcp, client: client(), client_port: 22, address: POOL, port: 50_022 }
}

fn with(static_bindings: Vec<StaticBinding>) -> Config {
    Config { static_bindings, ..config() }
}

fn syn_to(address: Ipv4Addr, port: u16) -> Vec<u8> {
    V4 { destination: address, ..V4::new(SERVER, 6) }.build(tcp(40_000, port, 2, b""))
}

#[test]
fn a_packet_from_ipv4_reaches_a_client_that_never_spoke() {
    let mut bench = Bench::new(with(vec![ssh()]));
    let out = bench.pass4(&syn_to(POOL, 50_022));
    let segment = check(&out);
    assert_eq!((address6(&out, 8), address6(&out, 24)), (server6(), client()));
    assert_eq!((word16(segment, 0), word16(segment, 2)), (40_000, 22));
    let back = bench.pass6(&V6::new(server6(), 6).build(tcp(22, 40_000, 0x12, b"")));
    let segment = check(&back);
    assert_eq!((address4(&back, 12), address4(&back, 16)), (POOL, SERVER));
    assert_eq!((word16(segment, 0), word16(segment, 2)), (50_022, 40_000));
}

#[test]
fn address_and_port_may_be_outside_the_pool() {
    let outside = StaticBinding { address: OTHER, port: 443, client_port: 443, ..ssh() };
    let low = StaticBinding { port: 80, client_port: 80, ..ssh() };
    let mut bench = Bench::new(with(vec![outside, low]));
    bench.pass4(&syn_to(OTHER, 443));
    bench.pass4(&syn_to(POOL, 80));
    assert_eq!(bench.v4(&syn_to(OTHER, 444)).0, Verdict::Drop(Reason::NoBinding));
    // The client's own connections use the pool.
    let out = bench.pass6(&V6::new(server6(), 6).build(tcp(40_000, 80, 2, b"")));
    assert_eq!(address4(&out, 12), POOL);
}

#[test]
fn the_port_is_not_handed_out_and_the_binding_outlives_its_sessions() {
    let mut bench = Bench::new(with(vec![ssh()]));
    let other = V6 { source: gateway6(), ..V6::new(server6(), 6) };
    let out = bench.pass6(&other.build(tcp(50_022, 80, 2, b"")));
    assert_ne!(word16(check(&out), 0), 50_022);
    bench.pass4(&syn_to(POOL, 50_022));
    bench.after(10_000);
    bench.after(10_000);
    assert_eq!((bench.nat.stats().bindings, bench.nat.stats().static_bindings, bench.nat.stats().sessions), (1, 1, 0));
    bench.pass4(&syn_to(POOL, 50_022));
}

#[test]
fn each_shard_takes_those_of_its_clients_and_steering_finds_them() {
    for shards in [2, 3, 7] {
        let port = (50_000..).find(|port| shard_of_port(*port, shards) != shard_of_client(client(), shards)).unwrap();
        let entry = StaticBinding { port, ..ssh() };
        let steering = Steering::new(&[entry], shards);
        let packet = syn_to(POOL, port);
        for shard in 0..shards {
            let mut bench = Bench::new(Config { shard, shards, ..with(vec![entry]) });
            let own = shard == shard_of_client(client(), shards);
            assert_eq!(matches!(bench.v4(&packet).0, Verdict::Forward), own);
            assert_eq!(bench.nat.takes(&packet), own);
            assert_eq!(steering.shard_of_v4(&packet), Some(shard_of_client(client(), shards)));
        }
        let udp_packet = V4::new(SERVER, 17).build(udp(53, port, b""));
        assert_eq!(steering.shard_of_v4(&udp_packet), Some(shard_of_port(port, shards)));
        let error = V4::new(ROUTER, 1).build(icmp(
            3,
            1,
            0,
            &V4 { source: POOL, ..V4::new(SERVER, 6) }.raw(&tcp(port, 80, 2, b"")),
        ));
        assert_eq!(steering.shard_of_v4(&error), Some(shard_of_client(client(), shards)));
    }
}

#[test]
fn they_come_and_go_without_hurting_others() {
    let mut bench = Bench::new(config());
    let ask =
        |bench: &mut Bench, port| word16(check(&bench.pass6(&V6::new(server6(), 6).build(tcp(port, 80, 2, b"")))), 0);
    assert_eq!(
        (ask(&mut bench, 40_000), ask(&mut bench, 22), ask(&mut bench, 50_022)),
        (40_000, ask(&mut bench, 22), 50_022)
    );
    // Both the client's port and the pool's port of the new binding are in use by dynamic ones, which go.
    assert_eq!(bench.nat.reconfigure(bench.now, with(vec![ssh()])), Ok(1));
    assert_eq!(ask(&mut bench, 40_000), 40_000);
    assert_eq!(ask(&mut bench, 22), 50_022);
    assert_ne!(ask(&mut bench, 50_022), 50_022);
    // Removed, its sessions go as well, and the port is handed out again.
    assert_eq!(bench.nat.reconfigure(bench.now, config()), Ok(1));
    assert_eq!(bench.v4(&syn_to(POOL, 50_022)).0, Verdict::Drop(Reason::NoBinding));
    assert_eq!(ask(&mut bench, 40_000), 40_000);
}

#[test]
fn a_dynamic_binding_with_the_same_ports_becomes_static_with_its_sessions() {
    let mut bench = Bench::new(Config { log_bindings: true, ..config() });
    bench.pass6(&V6::new(server6(), 6).build(tcp(50_022, 80, 2, b"")));
    let entry = StaticBinding { client_port: 50_022, ..ssh() };
    assert_eq!(bench.nat.reconfigure(bench.now, Config { log_bindings: true, ..with(vec![entry]) }), Ok(0));
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().static_bindings, bench.nat.stats().bindings), (1, 1, 1));
    let mut rows = Vec::new();
    assert_eq!(bench.nat.take_log(10, &mut rows), 0);
    assert_eq!(rows.iter().map(|row| (row.open, row.port)).collect::<Vec<_>>(), [(true, 50_022), (false, 50_022)]);
    bench.after(300);
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().bindings), (0, 1));
}

#[test]
fn impossible_ones_are_refused() {
    let refused = |entry| Config { static_bindings: vec![entry], ..config() }.verify();
    for entry in [
        StaticBinding { port: 0, ..ssh() },
        StaticBinding { client_port: 0, ..ssh() },
        StaticBinding { protocol: Protocol::Icmp, ..ssh() },
        StaticBinding { client: server6(), ..ssh() },
        StaticBinding { client: Ipv6Addr::UNSPECIFIED, ..ssh() },
        StaticBinding { address: Ipv4Addr::BROADCAST, ..ssh() },
    ] {
        assert_eq!(refused(entry), Err(ConfigError::StaticBinding(entry)));
    }
    let twice = StaticBinding { client_port: 23, ..ssh() };
    assert_eq!(with(vec![ssh(), twice]).verify(), Err(ConfigError::StaticCollision(twice)));
    let udp = StaticBinding { protocol: Protocol::Udp, ..ssh() };
    assert_eq!(with(vec![ssh(), udp]).verify(), Ok(()));
}
