//! Properties: there and back is the identity, checksums are right, and nothing panics.

use super::packets::*;
use super::*;
use crate::core::frame::SegmentKind;
use proptest::prelude::*;

fn any_offload() -> impl Strategy<Value = Offload> {
    let kind = prop_oneof![Just(SegmentKind::None), Just(SegmentKind::Tcp), Just(SegmentKind::Udp)];
    (kind, any::<u16>(), any::<bool>()).prop_map(|(kind, segment_size, partial_checksum)| Offload {
        kind,
        segment_size,
        partial_checksum,
    })
}

fn open() -> Bench {
    let mut bench = Bench::new(config());
    bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, b"")));
    bench.pass6(&V6::new(server6(), 6).build(tcp(40_000, 80, 2, b"")));
    bench.pass6(&V6::new(server6(), 58).build(icmp(128, 0, 40_000 << 16, b"")));
    bench
}

proptest! {
    #[test]
    fn there_and_back(
        port in 1u16.., remote in 1u16.., host in any::<u32>(), data in proptest::collection::vec(any::<u8>(), 0..1200),
        protocol in prop_oneof![Just(6u8), Just(17), Just(58)], class in any::<u8>(),
    ) {
        let host = Ipv4Addr::from((host & 0x3fff_ffff) | 0x4000_0000);
        prop_assume!(host.octets()[0] != 127 && host != POOL);
        let mut bench = Bench::new(config());
        let payload = match protocol {
            6 => tcp(port, remote, 2, &data),
            17 => udp(port, remote, &data),
            _ => icmp(128, 0, u32::from(port) << 16 | 1, &data),
        };
        let sent = V6 { class, ..V6::new(prefix().embed(host), protocol) }.build(payload);
        let out = bench.pass6(&sent);
        let translated = check(&out).to_vec();
        prop_assert_eq!(out.len() + 20, sent.len());

        let reply = match protocol {
            6 => tcp(remote, word16(&translated, 0), 18, &data),
            17 => udp(remote, word16(&translated, 0), &data),
            _ => icmp(0, 0, u32::from(word16(&translated, 4)) << 16 | 1, &data),
        };
        let back = bench.pass4(&V4 { tos: class, ..V4::new(host, if protocol == 58 { 1 } else { protocol }) }.build(reply));
        let received = check(&back);
        let at = if protocol == 58 { 4 } else { 2 };
        prop_assert_eq!(word16(received, at), port);
        prop_assert_eq!(&received[received.len() - data.len()..], &data[..]);
        prop_assert_eq!((address6(&back, 8), address6(&back, 24)), (prefix().embed(host), client()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), offload in any_offload()) {
        let mut bench = open();
        let _ = bench.run(&bytes, offload, true);
        let _ = bench.run(&bytes, offload, false);
    }

    #[test]
    fn arbitrary_payloads_behind_good_headers_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), offload in any_offload(), next in any::<u8>(),
        protocol in prop_oneof![Just(1u8), Just(6), Just(17)], fragment in any::<u16>(),
        extension in prop_oneof![Just(None), Just(Some(0u8)), Just(Some(43)), Just(Some(44)), Just(Some(60))],
    ) {
        let mut bench = open();
        let six = V6 { first: extension, ..V6::new(server6(), next) };
        let _ = bench.run(&six.raw(&bytes), offload, true);
        let _ = bench.run(&V6::new(server6(), 58).build([vec![next % 5, 0, 0, 0, 0, 0, 0, 0], bytes.clone()].concat()), Offload::default(), true);
        let _ = bench.run(&V4 { fragment, ..V4::new(SERVER, protocol) }.raw(&bytes), offload, false);
        let quote = [vec![3, next % 16, 0, 0, 0, next, 0, 0], bytes].concat();
        let _ = bench.run(&V4::new(SERVER, 1).build(quote), Offload::default(), false);
    }

    #[test]
    fn truncated_and_damaged_packets_never_panic(cut in 0usize..300, at in 0usize..300, value in any::<u8>(), kind in 0usize..6) {
        let mut bench = open();
        let out = bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, &[3; 100])));
        let back = bench.pass4(&V4::new(SERVER, 17).build(udp(53, 40_000, &[3; 100])));
        let mut packet = match kind {
            0 => V6::new(server6(), 6).build(tcp(40_000, 80, 16, &[1; 100])),
            1 => V4::new(SERVER, 6).build(tcp(80, 40_000, 18, &[1; 100])),
            2 => V4::new(ROUTER, 1).build(icmp(3, 4, 0, &out)),
            3 => V6::new(server6(), 58).build(icmp(2, 0, 1280, &back)),
            4 => V6::new(server6(), 17).fragment(1, 3).raw(&udp(40_000, 53, &[1; 100])),
            _ => V4 { fragment: 0x2000, ..V4::new(SERVER, 17) }.build(udp(53, 40_000, &[1; 100])),
        };
        packet.truncate(cut.max(1));
        if let Some(byte) = packet.get_mut(at) {
            *byte = value;
        }
        let from_v6 = matches!(kind, 0 | 3 | 4);
        let _ = bench.run(&packet, Offload::default(), from_v6);
    }
}

proptest! {
    /// Any traffic of a few clients: mappings stay one to one, and when all is idle nothing is left behind.
    #[test]
    fn tables_stay_consistent_and_empty_themselves(
        steps in proptest::collection::vec((0u8..3, 0u16..6, 0u8..3, 0u8..3, any::<bool>(), any::<u8>(), 0u64..200), 1..200),
        address_dependent in any::<bool>(),
    ) {
        let filtering = if address_dependent { Filtering::AddressDependent } else { Filtering::EndpointIndependent };
        let pool = vec![PoolEntry { address: POOL, first: 33_000, last: 33_009 }];
        let mut bench = Bench::new(Config { filtering, pool, max_bindings_per_client: 5, max_sessions: 20, ..config() });
        for (who, port, host, protocol, from_v6, flags, wait) in steps {
            let source = Ipv6Addr::from(u128::from(client()) + u128::from(who));
            let host = Ipv4Addr::new(10, 0, 1, host);
            let (next, protocol) = [(6, 6), (17, 17), (58, 1)][usize::from(protocol)];
            let payload = |from: u16, to: u16, kind: u8| match protocol {
                6 => tcp(from, to, flags & 0x17, b"x"),
                17 => udp(from, to, b"x"),
                _ => icmp(kind, 0, u32::from(from.max(to)) << 16, b"x"),
            };
            if from_v6 {
                let to = V6 { source, ..V6::new(prefix().embed(host), next) };
                let _ = bench.v6(&to.build(payload(33_000 + port, 80, 128)));
            } else {
                let _ = bench.v4(&V4::new(host, protocol).build(payload(80, 33_000 + port, 0)));
            }
            let bindings = bench.nat.bindings();
            let mut mapped: Vec<_> = bindings.iter().map(|binding| (binding.protocol, binding.port)).collect();
            mapped.sort_unstable();
            mapped.dedup();
            prop_assert_eq!(mapped.len(), bindings.len());
            prop_assert!(bench.nat.stats().sessions <= 20);
            prop_assert_eq!(bindings.iter().map(|binding| u64::from(binding.sessions)).sum::<u64>(), bench.nat.stats().sessions);
            bench.after(wait);
        }
        // An established connection is probed first, and ends four minutes later.
        bench.after(8000);
        bench.after(240);
        let stats = bench.nat.stats();
        prop_assert_eq!((stats.sessions, stats.bindings, stats.clients), (0, 0, 0));
        prop_assert_eq!(stats.sessions_created, stats.sessions_expired);
        prop_assert_eq!(bench.nat.next_timeout(), None);
        prop_assert!(bench.nat.held_syns.len() == 0);
    }
}

#[test]
fn a_tight_buffer_is_a_reason_and_not_a_panic() {
    let mut bench = open();
    let reply = V4::new(SERVER, 17).build(udp(53, 40_000, b"x"));
    for (headroom, expected) in
        [(0, Verdict::Drop(Reason::NoRoom)), (27, Verdict::Drop(Reason::NoRoom)), (28, Verdict::Forward)]
    {
        let mut buffer = vec![0; headroom + reply.len()];
        buffer[headroom..].copy_from_slice(&reply);
        let mut frame = Frame::new(&mut buffer, headroom, headroom + reply.len(), Offload::default());
        assert_eq!(bench.nat.from_v4(bench.now, &mut frame, &mut |_: &[u8]| {}), expected);
    }
    let mut dying = V6 { hops: 1, ..V6::new(server6(), 17) }.build(udp(1, 2, b"x"));
    let len = dying.len();
    let mut frame = Frame::new(&mut dying, 0, len, Offload::default());
    assert_eq!(bench.nat.from_v6(bench.now, &mut frame, &mut |_: &[u8]| {}), Verdict::Drop(Reason::NoRoom));
}
