//! Two levels of access: before the user of a client has authenticated, it reaches hosts for everybody only.

use super::packets::*;
use super::*;
use std::collections::BTreeSet;

const CONTROLLER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fn six(remote: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(server6()) & !0xffff_ffff | u128::from(u32::from(remote)))
}

fn restricted() -> Config {
    let open = |network, port| OpenHosts { network, length: 32, port };
    Config { open_hosts: Some(vec![open(CONTROLLER, None), open(POOL, Some(80))]), ..config() }
}

fn syn(remote: Ipv4Addr, from: u16, port: u16) -> Vec<u8> {
    V6::new(six(remote), 6).build(tcp(from, port, 2, b""))
}

fn opened(bench: &mut Bench, clients: &[Ipv6Addr]) -> usize {
    bench.nat.open_for(bench.now, clients.iter().copied().collect::<BTreeSet<_>>())
}

#[test]
fn nobody_reaches_more_than_the_hosts_for_everybody_by_default() {
    let mut bench = Bench::new(restricted());
    bench.pass6(&syn(CONTROLLER, 40_000, 389));
    bench.pass6(&syn(POOL, 40_001, 80));
    for packet in [
        syn(SERVER, 40_002, 80),
        syn(POOL, 40_003, 81),
        V6::new(six(SERVER), 17).build(udp(40_004, 53, b"x")),
        V6::new(six(SERVER), 58).build(icmp(128, 0, 7, b"ping")),
    ] {
        let (verdict, answer) = bench.v6(&packet);
        assert_eq!(verdict, Verdict::Reply);
        assert_eq!(check(&answer)[..2], [1, 1], "administratively prohibited (RFC 4443 section 3.1)");
    }
    assert_eq!((bench.nat.stats().refused(Reason::Unauthenticated), bench.nat.stats().sessions), (4, 2));
}

#[test]
fn a_client_that_is_opened_reaches_everything_and_what_it_has_ends_when_it_is_closed() {
    let mut bench = Bench::new(restricted());
    assert_eq!(opened(&mut bench, &[client()]), 0);
    bench.pass6(&syn(SERVER, 40_000, 80));
    bench.pass6(&syn(CONTROLLER, 40_001, 389));
    assert_eq!(opened(&mut bench, &[client(), gateway6()]), 0);
    assert_eq!(opened(&mut bench, &[]), 1);
    assert_eq!(bench.nat.stats().sessions, 1);
    assert_eq!(bench.v6(&V6::new(six(SERVER), 6).build(tcp(40_000, 80, 0x10, b"more"))).0, Verdict::Reply);
    bench.pass6(&V6::new(six(CONTROLLER), 6).build(tcp(40_001, 389, 0x10, b"more")));
}

#[test]
fn another_client_stays_closed() {
    let mut bench = Bench::new(restricted());
    opened(&mut bench, &[gateway6()]);
    assert_eq!(bench.v6(&syn(SERVER, 40_000, 80)).0, Verdict::Reply);
    bench.pass6(&V6 { source: gateway6(), ..V6::new(six(SERVER), 6) }.build(tcp(40_000, 80, 2, b"")));
}

#[test]
fn answers_to_what_the_intranet_opened_pass() {
    let ssh = StaticBinding { protocol: Protocol::Tcp, client: client(), client_port: 22, address: POOL, port: 50_022 };
    let mut bench = Bench::new(Config { static_bindings: vec![ssh], ..restricted() });
    let answer = V6::new(six(SERVER), 6).build(tcp(22, 40_000, 0x12, b""));
    assert_eq!(bench.v6(&answer).0, Verdict::Reply);
    bench.pass4(&V4 { destination: POOL, ..V4::new(SERVER, 6) }.build(tcp(40_000, 50_022, 2, b"")));
    bench.pass6(&answer);
}

#[test]
fn fragments_are_no_way_round() {
    let mut bench = Bench::new(restricted());
    let whole = udp(40_000, 53, &[7; 120]);
    let later = V6::new(six(SERVER), 17).fragment(64, 77).raw(&whole[64..]);
    assert_eq!(bench.v6(&later).0, Verdict::Held);
    let first = V6::new(six(SERVER), 17).fragment(1, 77).build(whole[..64].to_vec());
    assert_eq!(bench.v6(&first).0, Verdict::Reply);
    bench.after(10);
    assert!(bench.sunk.is_empty());
}

#[test]
fn a_restriction_ends_what_was_opened_before_it_and_clients_stay_opened_over_a_change() {
    let mut bench = Bench::new(config());
    bench.pass6(&syn(SERVER, 40_000, 80));
    bench.nat.reconfigure(bench.now, restricted()).unwrap();
    assert_eq!(bench.nat.stats().sessions, 0);
    opened(&mut bench, &[client()]);
    bench.nat.reconfigure(bench.now, Config { max_bindings: 5, ..restricted() }).unwrap();
    bench.pass6(&syn(SERVER, 40_000, 80));
}
