//! What passes the link and what does not.

use super::*;
use crate::core::frame::SegmentKind;

use Authentication::{Certificates, None as Nobody};

/// The answer to a router solicitation, by hand but for the checksum at 42..44.
fn advertisement(destination: Ipv6Addr) -> Vec<u8> {
    let message = hex("86 00 0000 40 00 0000 00000000 00000000
         03 04 40 c0 00015180 00003840 00000000 fd7c1a2b3c4d10000000000000000000
         18 02 30 00 00000708 fd7c1a2b3c4d0000
         05 01 0000 00000500");
    icmp(ip(SERVER), destination, &message)
}

#[test]
fn a_solicitation_is_answered_with_router_lifetime_zero() {
    for mode in [Nobody, Certificates] {
        let mut dialogue = Dialogue::new(mode, 2);
        assert_eq!(dialogue.receive(1, &router_solicitation(local(7))), FromClient::Consumed);
        assert_eq!(dialogue.sent(), [Sent::Learned(1, local(7)), Sent::To(1, advertisement(local(7)))]);
        assert_eq!(dialogue.receive(2, &router_solicitation(ip("::"))), FromClient::Consumed);
        assert_eq!(dialogue.sent(), [Sent::To(2, advertisement(ip("ff02::1")))]);
    }
}

#[test]
fn a_solicitation_from_a_taken_source_is_still_answered() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.receive(1, &router_solicitation(local(7)));
    dialogue.sent();
    assert_eq!(dialogue.receive(2, &router_solicitation(local(7))), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::To(2, advertisement(ip("ff02::1")))]);
}

#[test]
fn unsolicited_advertisements_reach_everyone_at_intervals() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    assert_eq!(dialogue.link.next_timeout(), Some(Now::from_secs(700)));
    dialogue.wait(599_999);
    assert!(dialogue.sent().is_empty());
    dialogue.wait(1);
    let mut sent = dialogue.sent();
    sent.sort_by_key(|sent| matches!(sent, Sent::To(2, _)));
    assert_eq!(sent, [1, 2].map(|id| Sent::To(id, advertisement(ip("ff02::1")))));
    // Half way between a third of 600 s and all of it.
    let next = dialogue.link.next_timeout().unwrap().since(dialogue.now);
    assert_eq!(next, Duration::from_secs(399));
}

#[test]
fn many_sessions_are_reached_in_batches() {
    let mut dialogue = Dialogue::new(Nobody, 0);
    dialogue.configure(LinkConfig { max_sessions: 1000, ..config(Nobody) });
    for id in 1..=600 {
        dialogue.attachments.push(dialogue.link.attach(dialogue.now, SessionId(id), None).unwrap());
    }
    let mut batches = Vec::new();
    for _ in 0..4 {
        dialogue.wait(10);
        batches.push(dialogue.sent().len());
    }
    assert_eq!(batches, [256, 256, 88, 0]);
}

#[test]
fn the_server_s_own_addresses_are_answered() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    dialogue.own(1, local(7));
    for target in ["fe80::1", "fd7c:1a2b:3c4d:1000::2"].map(ip) {
        // A solicited advertisement: R=1 S=1 O=1, no option.
        let answer = icmp(target, local(7), &[&[136, 0, 0, 0, 0xe0, 0, 0, 0][..], &target.octets()].concat());
        for destination in [target, group(target)] {
            let outcome = dialogue.receive(1, &solicitation(local(7), destination, target));
            assert_eq!(outcome, FromClient::Consumed);
            assert_eq!(dialogue.sent(), [Sent::To(1, answer.clone())]);
        }
    }
}

#[test]
fn a_source_link_layer_option_does_not_matter() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip(SERVER).octets(), &[1, 1, 2, 3, 4, 5, 6, 7]].concat();
    assert_eq!(dialogue.receive(1, &icmp(local(7), group(ip(SERVER)), &message)), FromClient::Consumed);
    assert_eq!(dialogue.sent().len(), 2);
}

#[test]
fn invalid_discovery_does_not_exist() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    let mut routed = router_solicitation(local(7));
    routed[7] = 254;
    let mut summed = router_solicitation(local(7));
    summed[43] ^= 1;
    for packet in [routed, summed] {
        assert_eq!(dialogue.receive(1, &packet), FromClient::Drop(DropReason::InvalidDiscovery));
    }
    // Behind a Destination Options header, or in a fragment (RFC 6980).
    let inner = &router_solicitation(local(7))[40..];
    for (next, header) in [(60, [58, 0, 1, 4, 0, 0, 0, 0]), (44, [58, 0, 0, 1, 0, 0, 0, 1])] {
        let hidden = packet(local(7), ip("ff02::2"), next, 255, &[&header[..], inner].concat());
        assert_eq!(dialogue.receive(1, &hidden), FromClient::Drop(DropReason::Hidden));
    }
    assert!(dialogue.sent().is_empty());
}

#[test]
fn clients_are_no_routers() {
    for mode in [Nobody, Certificates] {
        let mut dialogue = Dialogue::new(mode, 2);
        let advertisement = icmp(local(7), ip("ff02::1"), &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(dialogue.receive(1, &advertisement), FromClient::Drop(DropReason::RogueRouter));
        let redirect = icmp(local(7), local(8), &[&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat());
        assert_eq!(dialogue.receive(1, &redirect), FromClient::Drop(DropReason::RogueRouter));
        assert!(dialogue.sent().is_empty());
    }
}

/// MLDv2 report behind a router alert.
fn listener_report(source: Ipv6Addr) -> Vec<u8> {
    packet(source, ip("ff02::16"), 0, 1, &hex("3a 00 0502 0000 0100 8f 00 0000 0000 0000"))
}

#[test]
fn multicast_never_passes_in_mode_none() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(1, local(7));
    let drop = FromClient::Drop(DropReason::Multicast);
    assert_eq!(dialogue.receive(1, &listener_report(local(7))), drop);
    assert_eq!(dialogue.receive(1, &listener_report(ip("::"))), drop);
    assert_eq!(dialogue.receive(1, &udp(local(7), ip("ff02::fb"))), drop);
    assert_eq!(dialogue.receive(1, &udp(local(7), ip("ff0e::1"))), drop);
    // A multicast solicitation for another client, and a multicast advertisement.
    assert_eq!(dialogue.receive(1, &solicitation(local(7), group(client(9)), client(9))), drop);
    let claim = icmp(local(7), ip("ff02::1"), &[&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &client(9).octets()].concat());
    assert_eq!(dialogue.receive(1, &claim), drop);
    assert!(dialogue.sent().is_empty());
    // From the host: the kernel's listener reports and everything else.
    for packet in [listener_report(ip(SERVER)), udp(ip(SERVER), ip("ff02::fb"))] {
        assert_eq!(
            dialogue.link.from_host(dialogue.now, &packet, packet.len()),
            FromHost::Drop(DropReason::HostMulticast)
        );
    }
    assert_eq!(dialogue.attachments[0].drops().get(DropReason::Multicast), 6);
    assert_eq!(dialogue.link.counters().dropped(DropReason::HostMulticast), 2);
}

#[test]
fn multicast_passes_to_all_others_in_mode_certificates() {
    let mut dialogue = Dialogue::new(Certificates, 3);
    dialogue.own(1, local(7));
    let packet = udp(local(7), ip("ff02::fb"));
    assert_eq!(dialogue.receive(1, &packet), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::AllBut(1, packet)]);
    // Listener reports end here, and the kernel's as well.
    assert_eq!(dialogue.receive(1, &listener_report(local(7))), FromClient::Consumed);
    assert!(dialogue.sent().is_empty());
    let report = listener_report(ip(SERVER));
    assert_eq!(dialogue.link.from_host(dialogue.now, &report, report.len()), FromHost::Drop(DropReason::HostMulticast));
    assert_eq!(dialogue.link.from_host(dialogue.now, &udp(ip(SERVER), ip("ff02::fb")), 100), FromHost::ToAll);
}

#[test]
fn multicast_has_a_budget_of_copies() {
    let mut dialogue = Dialogue::new(Certificates, 10);
    dialogue.own(1, local(7));
    let packet = udp(local(7), ip("ff02::fb"));
    let passed = (0..3000).filter(|_| dialogue.receive(1, &packet) == FromClient::Consumed).count();
    assert_eq!(passed, 2000);
    assert_eq!(dialogue.link.counters().dropped(DropReason::MulticastRate), 1000);
}

#[test]
fn link_local_between_clients() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(1, local(7));
    dialogue.own(2, local(8));
    let drop = FromClient::Drop(DropReason::LinkLocalToClient);
    assert_eq!(dialogue.receive(1, &udp(local(7), local(8))), drop);
    assert_eq!(dialogue.receive(1, &udp(local(7), ip("fe80:1::1"))), drop);
    assert_eq!(dialogue.receive(1, &udp(local(7), ip(SERVER))), FromClient::ToHost);
    assert!(dialogue.sent().is_empty());
    let mut dialogue = Dialogue::new(Certificates, 2);
    dialogue.own(1, local(7));
    dialogue.own(2, local(8));
    let packet = udp(local(7), local(8));
    assert_eq!(dialogue.receive(1, &packet), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::To(2, packet)]);
    assert_eq!(dialogue.receive(1, &udp(local(7), local(9))), FromClient::Drop(DropReason::NotOnLink));
}

#[test]
fn discovery_between_clients_goes_to_the_owner_in_mode_certificates() {
    let mut dialogue = Dialogue::new(Certificates, 3);
    dialogue.own(1, client(7));
    dialogue.own(2, client(8));
    let ask = solicitation(client(7), group(client(8)), client(8));
    assert_eq!(dialogue.receive(1, &ask), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::To(2, ask)]);
    let answer = icmp(client(8), client(7), &[&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &client(8).octets()].concat());
    assert_eq!(dialogue.receive(2, &answer), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::To(1, answer)]);
    // Nobody is known to have it: to all others.
    let unknown = solicitation(client(7), group(client(99)), client(99));
    assert_eq!(dialogue.receive(1, &unknown), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::AllBut(1, unknown)]);
    // A multicast advertisement of a known target goes to nobody without an entry; of another's address, nowhere.
    let mine = icmp(client(8), ip("ff02::1"), &[&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &client(8).octets()].concat());
    assert_eq!(dialogue.receive(2, &mine), FromClient::Consumed);
    let stolen = icmp(client(8), ip("ff02::1"), &[&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &client(7).octets()].concat());
    assert_eq!(dialogue.receive(2, &stolen), FromClient::Drop(DropReason::AddressInUse));
    assert!(dialogue.sent().is_empty());
}

#[test]
fn sizes() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    dialogue.own(1, client(7));
    let sized = |size: usize| packet(client(7), ip("fd7c:1a2b:3c4d:1::6"), 17, 64, &vec![0; size - 40]);
    assert_eq!(dialogue.receive(1, &sized(1280)), FromClient::ToHost);
    assert!(dialogue.sent().is_empty());
    assert_eq!(dialogue.receive(1, &sized(1281)), FromClient::Drop(DropReason::TooBig));
    let sent = dialogue.sent();
    let [Sent::To(1, error)] = &sent[..] else { panic!("{sent:?}") };
    // Packet Too Big with MTU 1280 and the start of the packet, 1280 bytes in all.
    assert_eq!((error.len(), &error[40..42], &error[44..48]), (1280, &[2, 0][..], &[0, 0, 5, 0][..]));
    assert_eq!((&error[8..24], &error[24..40]), (&ip("fd7c:1a2b:3c4d:1000::1").octets()[..], &client(7).octets()[..]));
    assert_eq!(error[48..], sized(1281)[..1232]);
    let mut unsummed = error.clone();
    unsummed[42..44].fill(0);
    assert_eq!(icmp(ip("fd7c:1a2b:3c4d:1000::1"), client(7), &unsummed[40..])[42..44], error[42..44]);
    // A super-segment is as long as it likes, and errors have a rate.
    let offload = Offload { kind: SegmentKind::Udp, segment_size: 1232, partial_checksum: true };
    assert_eq!(dialogue.receive_offload(1, &sized(40_000), offload), FromClient::ToHost);
    for _ in 0..100 {
        dialogue.receive(1, &sized(1281));
    }
    assert_eq!(dialogue.sent().len(), 9);
}

#[test]
fn malformed_and_aimless_packets() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    dialogue.own(1, client(7));
    let mut long = udp(client(7), client(8));
    long.push(0);
    for packet in [&[0x60; 39][..], &[][..], &long, &[0x45; 60]] {
        assert_eq!(dialogue.receive(1, packet), FromClient::Drop(DropReason::Malformed));
    }
    for destination in ["::", "::1", "::ffff:10.0.0.1"].map(ip) {
        let outcome = dialogue.receive(1, &udp(client(7), destination));
        assert_eq!(outcome, FromClient::Drop(DropReason::BadDestination));
    }
    // NAT64's well-known prefix begins with zeros, too.
    assert_eq!(dialogue.receive(1, &udp(client(7), ip("64:ff9b::a00:4"))), FromClient::ToHost);
}

#[test]
fn from_the_host() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(2, client(8));
    let outside = ip("fd7c:1a2b:3c4d:1::6");
    assert_eq!(dialogue.link.from_host(dialogue.now, &udp(outside, client(8)), 100), FromHost::To(SessionId(2)));
    let FromHost::Undeliverable(error) = dialogue.link.from_host(dialogue.now, &udp(outside, client(9)), 100) else {
        panic!("unreachable")
    };
    assert_eq!((&error[40..42], &error[24..40]), (&[1, 3][..], &outside.octets()[..]));
    assert_eq!(error[48..], udp(outside, client(9)));
    // No error about an error, and none without a source.
    let drop = FromHost::Drop(DropReason::Unreachable);
    assert_eq!(dialogue.link.from_host(dialogue.now, &icmp(outside, client(9), &[1, 0, 0, 0, 0, 0, 0, 0]), 100), drop);
    assert_eq!(dialogue.link.from_host(dialogue.now, &udp(ip("::"), client(9)), 100), drop);
    for destination in ["fd7c:1a2b:3c4d:1000::1", "2001:db8::1"].map(ip) {
        let outcome = dialogue.link.from_host(dialogue.now, &udp(outside, destination), 100);
        assert_eq!(outcome, FromHost::Drop(DropReason::NotOnLink));
    }
    assert_eq!(dialogue.link.from_host(dialogue.now, &[0x60; 20], 100), FromHost::Drop(DropReason::Malformed));
}

#[test]
fn nothing_longer_than_the_mtu_goes_to_a_client() {
    let mut dialogue = Dialogue::new(Certificates, 2);
    dialogue.own(2, client(8));
    let packet = udp(ip("fd7c:1a2b:3c4d:1::6"), client(8));
    assert_eq!(dialogue.link.from_host(dialogue.now, &packet, 1280), FromHost::To(SessionId(2)));
    let FromHost::Undeliverable(error) = dialogue.link.from_host(dialogue.now, &packet, 1281) else {
        panic!("too big")
    };
    assert_eq!((&error[40..42], &error[44..48]), (&[2, 0][..], &1280u32.to_be_bytes()[..]));
    let group = udp(ip(SERVER), ip("ff02::fb"));
    assert_eq!(dialogue.link.from_host(dialogue.now, &group, 1281), FromHost::Drop(DropReason::TooBig));
}

#[test]
fn errors_to_the_host_have_a_rate() {
    let dialogue = Dialogue::new(Nobody, 0);
    let packet = udp(ip("2001:db8::1"), client(9));
    let errors = (0..500)
        .filter(|_| matches!(dialogue.link.from_host(dialogue.now, &packet, packet.len()), FromHost::Undeliverable(_)))
        .count();
    assert_eq!(errors, 100);
}

#[test]
fn answers_have_a_rate() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    let outcomes: Vec<_> = (0..50).map(|_| dialogue.receive(1, &router_solicitation(local(7)))).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == FromClient::Consumed).count(), 40);
    assert_eq!(outcomes[49], FromClient::Drop(DropReason::ReplyRate));
}

#[test]
fn a_full_table_refuses() {
    let mut dialogue = Dialogue::new(Nobody, 10);
    assert_eq!(dialogue.link.attach(dialogue.now, SessionId(11), None).unwrap_err(), CloseReason::TableFull);
    dialogue.link.detach(dialogue.attachments.pop().unwrap());
    assert!(dialogue.link.attach(dialogue.now, SessionId(12), None).is_ok());
    assert_eq!(dialogue.link.sessions(), 10);
}

#[test]
fn a_changed_mode_closes_all() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(1, client(7));
    dialogue.configure(config(Certificates));
    let mut sent = dialogue.sent();
    sent.sort_by_key(|sent| matches!(sent, Sent::Evict(2, _)));
    assert_eq!(sent, [1, 2].map(|id| Sent::Evict(id, CloseReason::AuthenticationChanged)));
    assert_eq!((dialogue.link.sessions(), dialogue.link.owner(client(7))), (0, None));
    let after = dialogue.receive(1, &udp(client(7), ip("fd7c:1a2b:3c4d:1::6")));
    assert_eq!(after, FromClient::Drop(DropReason::Evicted));
    // A session that asked under the old mode and comes late.
    let late = dialogue.link.attach(dialogue.now, SessionId(9), None);
    assert_eq!(late.unwrap_err(), CloseReason::NoIdentity);
}

#[test]
fn another_change_is_advertised_at_once_and_frees_what_is_impossible() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    dialogue.own(1, client(7));
    dialogue.own(1, local(7));
    dialogue.configure(LinkConfig { prefix: ip("fd00:0:0:5::"), router_lifetime: 9, ..config(Nobody) });
    dialogue.wait(0);
    let sent = dialogue.sent();
    let [Sent::To(1, packet)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((&packet[46..48], &packet[72..80]), (&[0, 9][..], &hex("fd00000000000005")[..]));
    assert_eq!(dialogue.link.owner(client(7)), None);
    assert_eq!(dialogue.link.owner(local(7)), Some(SessionId(1)));
    let outcome = dialogue.receive(1, &udp(client(7), ip("fd7c:1a2b:3c4d:1::6")));
    assert_eq!(outcome, FromClient::Drop(DropReason::ForeignSource));
}

#[test]
fn nonsense_is_no_configuration() {
    let good = config(Nobody);
    let route = |text: &str, length| Route { prefix: ip(text), length };
    for (config, error) in [
        (LinkConfig { link_local: ip("fe80:1::1"), ..good.clone() }, ConfigError::LinkLocal(ip("fe80:1::1"))),
        (LinkConfig { addresses: vec![], ..good.clone() }, ConfigError::Addresses),
        (LinkConfig { prefix: client(1), ..good.clone() }, ConfigError::Prefix(client(1))),
        (LinkConfig { routes: vec![route("fd00::1", 64)], ..good.clone() }, ConfigError::Route(route("fd00::1", 64))),
        (LinkConfig { routes: vec![route("::", 129)], ..good.clone() }, ConfigError::Route(route("::", 129))),
        (LinkConfig { routes: vec![route("fd00::", 96); 60], ..good.clone() }, ConfigError::TooManyRoutes(60)),
        (LinkConfig { max_sessions: 0, ..good.clone() }, ConfigError::Zero("max_sessions")),
    ] {
        assert_eq!(Link::new(config, Now(0)).unwrap_err(), error);
    }
    assert!(Link::new(LinkConfig { routes: vec![route("::", 0)], ..good }, Now(0)).is_ok());
}
