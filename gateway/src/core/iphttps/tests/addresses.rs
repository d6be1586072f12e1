//! Who owns an address, and how it changes hands.

use super::*;

use Authentication::{Certificates, None as Nobody};

const HOST: &str = "fd7c:1a2b:3c4d:1::6";

/// What the asker of a duplicate address probe hears: to all nodes, R=0 S=0 O=1, no option.
fn defence(target: Ipv6Addr) -> Vec<u8> {
    icmp(target, ip("ff02::1"), &[&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets()].concat())
}

/// How the server asks an owner.
fn question(target: Ipv6Addr) -> Vec<u8> {
    solicitation(ip(SERVER), target, target)
}

#[test]
fn a_duplicate_is_answered_on_the_asker_s_connection_only() {
    let mut dialogue = Dialogue::new(Nobody, 3);
    dialogue.own(1, client(7));
    assert_eq!(dialogue.receive(2, &probe(client(7))), FromClient::Consumed);
    // By hand: the advertisement of fd7c:1a2b:3c4d:1000:abcd::7, summed from zero.
    let expected = hex("60000000 0018 3a ff fd7c1a2b3c4d1000abcd000000000007 ff020000000000000000000000000001
         88 00 0000 20000000 fd7c1a2b3c4d1000abcd000000000007");
    let sent = dialogue.sent();
    let [Sent::To(2, answer)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((&answer[..42], &answer[44..]), (&expected[..42], &expected[44..]));
    assert_eq!(answer, &defence(client(7)));
    assert_eq!(dialogue.link.owner(client(7)), Some(SessionId(1)));
}

#[test]
fn a_free_address_is_noted_and_not_answered() {
    for (mode, copies) in [(Nobody, 0), (Certificates, 1)] {
        let mut dialogue = Dialogue::new(mode, 2);
        assert_eq!(dialogue.receive(1, &probe(client(7))), FromClient::Consumed);
        let sent = dialogue.sent();
        assert_eq!((sent.len(), &sent[0]), (1 + copies, &Sent::Learned(1, client(7))));
        assert!(sent[1..].iter().all(|sent| *sent == Sent::AllBut(1, probe(client(7)))));
        assert_eq!(dialogue.link.owner(client(7)), Some(SessionId(1)));
        // The same session may repeat its probe.
        assert_eq!(dialogue.receive(1, &probe(client(7))), FromClient::Consumed);
        assert_eq!(dialogue.sent().len(), copies);
    }
}

#[test]
fn in_mode_certificates_the_owner_alone_hears_the_probe() {
    let mut dialogue = Dialogue::new(Certificates, 3);
    dialogue.own(1, client(7));
    assert_eq!(dialogue.receive(2, &probe(client(7))), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::To(2, defence(client(7))), Sent::To(1, probe(client(7)))]);
}

#[test]
fn the_server_defends_its_own_addresses() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    for target in ["fe80::1", "fd7c:1a2b:3c4d:1000::1", "fd7c:1a2b:3c4d:1000::"].map(ip) {
        assert_eq!(dialogue.receive(1, &probe(target)), FromClient::Consumed);
        let message = [&[136, 0, 0, 0, 0xa0, 0, 0, 0][..], &target.octets()].concat();
        assert_eq!(dialogue.sent(), [Sent::To(1, icmp(target, ip("ff02::1"), &message))]);
        let outcome = dialogue.receive(1, &udp(target, ip(HOST)));
        assert_eq!(outcome, FromClient::Drop(DropReason::ServerSource));
    }
    assert_eq!(dialogue.receive(1, &probe(ip("2001:db8::1"))), FromClient::Drop(DropReason::ForeignTarget));
}

#[test]
fn spoofed_sources_are_dropped() {
    let mut dialogue = Dialogue::new(Certificates, 2);
    dialogue.own(1, client(7));
    for (source, reason) in [
        (client(7), DropReason::AddressInUse),
        (ip("2001:db8::1"), DropReason::ForeignSource),
        (ip("fd7c:1a2b:3c4d:1001::7"), DropReason::ForeignSource),
        (ip("fe80:0:0:1::7"), DropReason::ForeignSource),
        (ip("::1"), DropReason::ForeignSource),
        (ip("ff02::1"), DropReason::ForeignSource),
        (ip("fd7c:1a2b:3c4d:3333::1"), DropReason::ServerSource),
        (ip("::"), DropReason::UnspecifiedSource),
        (local(9), DropReason::ForeignSource),
    ] {
        assert_eq!(dialogue.receive(2, &udp(source, ip(HOST))), FromClient::Drop(reason), "{source}");
    }
    assert_eq!(dialogue.attachments[1].drops().get(DropReason::ForeignSource), 6);
}

#[test]
fn addresses_per_session_are_bounded_and_stale_ones_make_room() {
    let mut dialogue = Dialogue::new(Nobody, 1);
    for host in 1..=3 {
        dialogue.own(1, client(host));
        dialogue.wait(1000);
    }
    assert_eq!(dialogue.receive(1, &udp(client(4), ip(HOST))), FromClient::Drop(DropReason::AddressLimit));
    dialogue.wait(29_000);
    dialogue.own(1, client(2));
    // The longest unused one goes; a used one stays.
    dialogue.own(1, client(4));
    assert_eq!(dialogue.link.owner(client(1)), None);
    dialogue.own(1, client(5));
    assert_eq!(dialogue.link.owner(client(3)), None);
    assert_eq!(dialogue.receive(1, &udp(client(6), ip(HOST))), FromClient::Drop(DropReason::AddressLimit));
    assert_eq!(dialogue.attachments[0].addresses(), [client(2), client(4), client(5)]);
}

#[test]
fn detaching_frees_the_addresses() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(2, client(7));
    dialogue.link.detach(dialogue.attachments.pop().unwrap());
    dialogue.own(1, client(7));
    assert_eq!(dialogue.link.owner(client(7)), Some(SessionId(1)));
}

#[test]
fn a_half_dead_connection_does_not_block_the_same_machine() {
    for packet in [probe(client(7)), udp(client(7), ip(HOST))] {
        let mut dialogue = Dialogue::new(Certificates, 0);
        let old = dialogue.join("client1");
        dialogue.own(old, client(7));
        dialogue.own(old, local(7));
        let new = dialogue.join("client1");
        assert!(matches!(dialogue.receive(new, &packet), FromClient::Consumed | FromClient::ToHost));
        let sent = dialogue.sent();
        assert_eq!(sent[..2], [Sent::Evict(1, CloseReason::Replaced), Sent::Learned(2, client(7))]);
        assert!(!sent.iter().any(|sent| matches!(sent, Sent::To(2, _))), "nothing defends the old connection");
        // What the old connection had buffered counts no more, fast path or not.
        assert_eq!(dialogue.receive(old, &udp(client(7), ip(HOST))), FromClient::Drop(DropReason::Evicted));
        assert_eq!((dialogue.link.owner(client(7)), dialogue.link.owner(local(7))), (Some(SessionId(2)), None));
    }
}

#[test]
fn another_machine_does_not_take_over() {
    let mut dialogue = Dialogue::new(Certificates, 0);
    let owner = dialogue.join("client1");
    dialogue.own(owner, client(7));
    let other = dialogue.join("client2");
    assert_eq!(dialogue.receive(other, &udp(client(7), ip(HOST))), FromClient::Drop(DropReason::AddressInUse));
    assert_eq!(dialogue.link.owner(client(7)), Some(SessionId(1)));
}

#[test]
fn a_half_dead_connection_does_not_block_a_reconnect() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(1, client(7));
    dialogue.wait(1500);
    // >> the probe of the reconnected client  << a question to the old connection, no defence
    assert_eq!(dialogue.receive(2, &probe(client(7))), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::To(1, question(client(7)))]);
    for _ in 0..2 {
        dialogue.wait(1000);
        assert_eq!(dialogue.sent(), [Sent::To(1, question(client(7)))]);
        // Until the owner is given up, the address is not the asker's.
        let early = dialogue.receive(2, &udp(client(7), ip(HOST)));
        assert_eq!(early, FromClient::Drop(DropReason::AddressProbed));
    }
    dialogue.wait(1000);
    assert_eq!(dialogue.sent(), [Sent::Evict(1, CloseReason::Silent), Sent::Learned(2, client(7))]);
    assert_eq!(dialogue.receive(2, &udp(client(7), ip(HOST))), FromClient::ToHost);
    assert_eq!(dialogue.link.from_host(dialogue.now, &udp(ip(HOST), client(7)), 100), FromHost::To(SessionId(2)));
    assert_eq!(dialogue.link.counters().happened(LinkEvent::EvictedSilent), 1);
}

#[test]
fn a_living_owner_is_defended_as_soon_as_it_answers() {
    let mut dialogue = Dialogue::new(Nobody, 3);
    dialogue.own(1, client(7));
    dialogue.wait(5000);
    assert_eq!(dialogue.receive(2, &probe(client(7))), FromClient::Consumed);
    assert_eq!(dialogue.receive(3, &udp(client(7), ip(HOST))), FromClient::Drop(DropReason::AddressProbed));
    assert_eq!(dialogue.sent(), [Sent::To(1, question(client(7)))]);
    dialogue.now = dialogue.now + Duration::from_millis(40);
    let answer = icmp(client(7), ip(SERVER), &[&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &client(7).octets()].concat());
    assert_eq!(dialogue.receive(1, &answer), FromClient::Consumed);
    assert_eq!(dialogue.sent(), [Sent::To(2, defence(client(7)))]);
    dialogue.wait(10_000);
    assert!(dialogue.sent().is_empty());
    assert_eq!(dialogue.link.owner(client(7)), Some(SessionId(1)));
}

#[test]
fn any_packet_of_the_owner_answers_for_it() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(1, client(7));
    dialogue.wait(2000);
    dialogue.receive(2, &probe(client(7)));
    dialogue.sent();
    assert_eq!(dialogue.receive(1, &udp(client(7), ip(HOST))), FromClient::ToHost);
    assert_eq!(dialogue.sent(), [Sent::To(2, defence(client(7)))]);
}

#[test]
fn an_owner_that_leaves_while_probed_leaves_nothing_behind() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(1, client(7));
    dialogue.wait(2000);
    dialogue.receive(2, &probe(client(7)));
    dialogue.sent();
    let owner = dialogue.attachments.remove(0);
    dialogue.link.detach(owner);
    dialogue.wait(1000);
    assert!(dialogue.sent().is_empty());
    assert_eq!(dialogue.receive(1, &udp(client(7), ip(HOST))), FromClient::ToHost);
    assert_eq!(dialogue.link.owner(client(7)), Some(SessionId(2)));
}

#[test]
fn an_asker_that_left_hears_nothing() {
    let mut dialogue = Dialogue::new(Nobody, 2);
    dialogue.own(1, client(7));
    dialogue.wait(2000);
    dialogue.receive(2, &probe(client(7)));
    dialogue.link.detach(dialogue.attachments.pop().unwrap());
    dialogue.sent();
    assert_eq!(dialogue.receive(1, &udp(client(7), ip(HOST))), FromClient::ToHost);
    assert!(dialogue.sent().is_empty());
}
