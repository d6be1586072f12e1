//! What happens when answers grow old, servers fall silent, and clients ask too much.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::dialogue::{Dialogue, Sent, aaaa, alias, answer, error, negative, query, set_edns, texts};
use super::{PREFIX, a, both};
use crate::core::dns64::Source;
use crate::core::time::Now;

fn resolved(d: &mut Dialogue, name: &str, ttl: u32) {
    d.query(&query(name, RecordType::AAAA));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![a(name, ttl, [10, 0, 0, 4])]));
    assert_eq!(d.reply().answers.len(), 1);
}

#[test]
fn names_in_demand_are_asked_for_before_they_expire() {
    let mut d = Dialogue::new("{}");
    resolved(&mut d, "hot.example", 100);
    d.pass(89.0);
    d.query(&query("hot.example", RecordType::AAAA));
    assert_eq!(texts(&d.reply()), [format!("11 AAAA {PREFIX}a00:4")]);
    d.nothing_sent();
    d.pass(2.0);
    for _ in 0..3 {
        d.query(&query("hot.example", RecordType::AAAA));
        assert_eq!(texts(&d.reply()), [format!("9 AAAA {PREFIX}a00:4")]);
    }
    // Asked once, and nobody waits for it.
    let asked = d.sent();
    d.nothing_sent();
    d.answer(&asked, &answer(&asked, vec![a("hot.example", 100, [10, 0, 0, 5])]));
    d.no_reply();
    d.query(&query("hot.example", RecordType::AAAA));
    assert_eq!(texts(&d.reply()), [format!("100 AAAA {PREFIX}a00:5")]);
    let stats = d.stats();
    assert_eq!((stats.refreshed, stats.waiting, stats.answered_resolved), (1, 0, 1));

    // Not when the administrator does not want it, and not for names without demand.
    let mut d = Dialogue::new(r#"{"prefetch": false}"#);
    resolved(&mut d, "hot.example", 100);
    d.pass(95.0);
    d.query(&query("hot.example", RecordType::AAAA));
    d.reply();
    d.nothing_sent();
}

#[test]
fn only_what_expires_is_refreshed() {
    let mut d = both();
    d.query(&query("x.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&first, &negative(&first, ResponseCode::NoError, Some(60)));
    d.answer(&second, &answer(&second, vec![a("x.example", 3600, [10, 0, 0, 4])]));
    d.reply();
    d.pass(55.0);
    d.query(&query("x.example", RecordType::AAAA));
    d.reply();
    let asked = d.sent();
    assert_eq!(asked.kind(), RecordType::AAAA);
    d.answer(&asked, &negative(&asked, ResponseCode::NoError, Some(60)));
    d.nothing_sent();
    d.pass(10.0);
    d.query(&query("x.example", RecordType::AAAA));
    // 60 seconds from the refresh on.
    assert_eq!(texts(&d.reply()), [format!("50 AAAA {PREFIX}a00:4")]);
    d.nothing_sent();
}

#[test]
fn expired_answers_stand_in_for_servers_that_do_not_answer() {
    let mut d = Dialogue::new("{}");
    resolved(&mut d, "app.example", 60);
    d.pass(100.0);
    // Servers are asked first; the client waits 1.8 seconds for them and no longer.
    let mut wide = query("app.example", RecordType::AAAA);
    set_edns(&mut wide, 1232, false);
    d.query(&wide);
    assert_eq!(d.sent().kind(), RecordType::A);
    d.pass(1.79);
    d.no_reply();
    d.pass(0.02);
    let reply = d.raw_reply();
    let message = hickory_proto::op::Message::from_vec(&reply).expect("decodes");
    assert_eq!(texts(&message), [format!("30 AAAA {PREFIX}a00:4")]);
    // Extended error 3, "Stale Answer" (RFC 8914).
    assert_eq!(&reply[reply.len() - 6..], &[0, 15, 0, 2, 0, 3]);
    // The next one does not wait at all.
    d.forget_sent();
    d.query(&query("app.example", RecordType::AAAA));
    assert_eq!(texts(&d.reply()), [format!("30 AAAA {PREFIX}a00:4")]);
    d.nothing_sent();
    // When the servers are back, so is their word.
    d.pass(40.0);
    d.forget_sent();
    d.query(&query("app.example", RecordType::AAAA));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![a("app.example", 60, [10, 0, 0, 5])]));
    let expected = [format!("60 AAAA {PREFIX}a00:5")];
    assert_eq!(texts(&d.reply()), expected);
    d.query(&query("app.example", RecordType::AAAA));
    assert_eq!(texts(&d.reply()), expected);
    assert!(d.stats().answered_stale >= 2);
}

#[test]
fn failing_servers_count_as_silent_and_definite_answers_do_not() {
    let mut d = Dialogue::new("{}");
    resolved(&mut d, "app.example", 60);
    d.pass(100.0);
    d.query_locally(&query("app.example", RecordType::AAAA));
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let asked = d.sent();
        d.answer(&asked, &error(&asked, code));
    }
    let (reply, report) = d.report();
    assert_eq!((texts(&reply), report.source), (vec![format!("30 AAAA {PREFIX}a00:4")], Source::Stale));
    // For half a minute nobody asks again.
    d.pass(29.0);
    d.query(&query("app.example", RecordType::AAAA));
    assert_eq!(d.reply().answers.len(), 1);
    d.nothing_sent();
    d.pass(2.0);
    d.query(&query("app.example", RecordType::AAAA));
    let asked = d.sent();
    // The name is gone: that is an answer, and the expired one is forgotten.
    d.answer(&asked, &negative(&asked, ResponseCode::NXDomain, Some(60)));
    assert_eq!(d.reply().metadata.response_code, ResponseCode::NXDomain);
    d.query(&query("app.example", RecordType::AAAA));
    assert_eq!(d.reply().metadata.response_code, ResponseCode::NXDomain);

    // Too old, or not wanted: the failure is told.
    let mut d = Dialogue::new(r#"{"serve_stale_seconds": 3600}"#);
    resolved(&mut d, "app.example", 60);
    d.pass(3661.0);
    d.query(&query("app.example", RecordType::AAAA));
    d.pass(6.0);
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    let mut d = Dialogue::new(r#"{"serve_stale_seconds": 0}"#);
    resolved(&mut d, "app.example", 60);
    d.pass(61.0);
    d.query(&query("app.example", RecordType::AAAA));
    d.pass(6.0);
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn while_all_servers_are_down_nobody_waits() {
    let mut d = Dialogue::new("{}");
    for name in ["a.example", "b.example"] {
        resolved(&mut d, name, 60);
    }
    d.pass(100.0);
    // The servers are found out with names that nobody has asked before.
    for number in 0..4 {
        d.query(&query(&format!("new{number}.example"), RecordType::AAAA));
        d.pass(5.1);
        assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    }
    assert!(d.stats().servers.iter().all(|server| server.resting));
    d.forget_sent();
    for name in ["a.example", "b.example"] {
        d.query(&query(name, RecordType::AAAA));
        assert_eq!(texts(&d.reply()), [format!("30 AAAA {PREFIX}a00:4")]);
        // Asked again behind the client's back.
        let asked = d.sent();
        d.answer(&asked, &answer(&asked, vec![a(name, 60, [10, 0, 0, 9])]));
        d.no_reply();
        d.query(&query(name, RecordType::AAAA));
        assert_eq!(texts(&d.reply()), [format!("60 AAAA {PREFIX}a00:9")]);
        d.forget_sent();
        // One answer brought the server back; put it to rest again for the second name.
        if name == "a.example" {
            for number in 4..9 {
                d.query(&query(&format!("new{number}.example"), RecordType::AAAA));
                d.pass(5.1);
                d.reply();
            }
            d.forget_sent();
        }
    }
}

#[test]
fn what_is_made_of_expired_answers_is_not_kept() {
    let mut d = Dialogue::new("{}");
    // Only the A answer is known, and it expires.
    d.query(&query("x.example", RecordType::A));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![a("x.example", 60, [10, 0, 0, 4])]));
    d.reply();
    d.pass(100.0);
    d.query(&query("x.example", RecordType::AAAA));
    d.pass(5.1);
    assert_eq!(texts(&d.reply()), [format!("30 AAAA {PREFIX}a00:4")]);
    assert_eq!(d.stats().cache_entries, 1);
}

#[test]
fn one_client_over_its_rate_is_sent_to_tcp_and_the_others_do_not_notice() {
    let mut d = Dialogue::new(r#"{"queries_per_second_per_client": 10, "query_burst_per_client": 20}"#);
    let ask = query("ipv4only.arpa", RecordType::AAAA).to_vec().expect("encodes");
    let mut answered = [0; 2];
    for _ in 0..60 {
        d.raw_query(1, &ask);
        while let Some(reply) = d.try_reply() {
            answered[usize::from(reply.metadata.truncation)] += 1;
            // Nothing to gain from the answers to somebody else's address.
            assert!(!reply.metadata.truncation || reply.answers.is_empty());
        }
    }
    assert_eq!(answered, [20, 20]);
    let stats = d.stats();
    assert_eq!((stats.answered_client_rate_by_tcp, stats.dropped_client_rate), (20, 20));
    d.raw_query(2, &ask);
    assert_eq!(d.reply().answers.len(), 2);
    // By TCP it is served, at its rate.
    let address = Dialogue::client(1).ip();
    for _ in 0..20 {
        assert_eq!(d.engine.tcp_wait(d.now, address), None);
    }
    assert_eq!(d.engine.tcp_wait(d.now, address), Some(Duration::from_millis(100)));
    d.query_tcp(&query("ipv4only.arpa", RecordType::AAAA));
    assert_eq!(d.reply().answers.len(), 2);
    d.pass(1.0);
    for _ in 0..10 {
        d.raw_query(1, &ask);
        assert_eq!(d.reply().answers.len(), 2);
    }
}

/// Two suffixes with a server each, and one for the rest.
fn suffixes() -> Dialogue {
    Dialogue::new(
        r#"{"upstreams": [{"suffix": "corp.example", "servers": ["10.0.0.1"]},
            {"suffix": "partner.example", "servers": ["10.0.0.2"]}, {"suffix": "", "servers": ["10.0.0.3"]}]}"#,
    )
}

fn server(asked: &Sent) -> String {
    asked.server.ip().to_string()
}

#[test]
fn aliases_lead_from_the_servers_of_one_suffix_to_those_of_another() {
    let mut d = suffixes();
    d.query(&query("www.corp.example", RecordType::AAAA));
    let asked = d.sent();
    assert_eq!(server(&asked), "10.0.0.1");
    // What it says about the other's names does not count.
    let records =
        vec![alias("www.corp.example", 50, "www.partner.example"), a("www.partner.example", 300, [192, 0, 2, 66])];
    d.answer(&asked, &answer(&asked, records));
    let asked = d.sent();
    assert_eq!((server(&asked), asked.kind()), ("10.0.0.2".to_owned(), RecordType::A));
    d.answer(&asked, &answer(&asked, vec![alias("www.partner.example", 40, "cdn.example.org")]));
    let asked = d.sent();
    assert_eq!(server(&asked), "10.0.0.3");
    d.answer(&asked, &answer(&asked, vec![a("cdn.example.org", 300, [10, 0, 0, 4])]));
    let expected = [
        "50 CNAME www.partner.example.".to_owned(),
        "40 CNAME cdn.example.org.".to_owned(),
        format!("300 AAAA {PREFIX}a00:4"),
    ];
    assert_eq!(texts(&d.reply()), expected);
    assert_eq!((d.stats().chains_followed, d.stats().asking), (2, 0));
    // The last step is known now, too.
    d.query(&query("cdn.example.org", RecordType::AAAA));
    assert_eq!(d.reply().answers.len(), 1);
    d.nothing_sent();
}

#[test]
fn the_end_of_a_chain_decides_its_code() {
    let mut d = suffixes();
    d.query(&query("gone.corp.example", RecordType::A));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![alias("gone.corp.example", 50, "gone.partner.example")]));
    let asked = d.sent();
    d.answer(&asked, &negative(&asked, ResponseCode::NXDomain, Some(60)));
    let reply = d.reply();
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(reply.authorities.len(), 1);

    d.query(&query("bad.corp.example", RecordType::A));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![alias("bad.corp.example", 50, "bad.partner.example")]));
    let asked = d.sent();
    d.answer(&asked, &error(&asked, ResponseCode::Refused));
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);

    // Aliases for their own sake are not followed.
    d.query(&query("www.corp.example", RecordType::CNAME));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![alias("www.corp.example", 50, "www.partner.example")]));
    assert_eq!(d.reply().answers.len(), 1);
    d.nothing_sent();
}

#[test]
fn chains_in_circles_end_at_once() {
    let mut d = suffixes();
    d.query(&query("a.corp.example", RecordType::A));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![alias("a.corp.example", 50, "a.partner.example")]));
    let asked = d.sent();
    d.answer(&asked, &answer(&asked, vec![alias("a.partner.example", 50, "a.corp.example")]));
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    d.nothing_sent();
    let stats = d.stats();
    assert_eq!((stats.chains_broken, stats.asking, stats.waiting), (1, 0, 0));

    // And endless ones after a few steps.
    d.query(&query("n0.corp.example", RecordType::A));
    let mut steps = 0;
    while let Some(asked) = d.try_sent() {
        let from = asked.message.queries[0].name().to_ascii().to_lowercase();
        let zone = if steps % 2 == 0 { "partner" } else { "corp" };
        let record = alias(from.trim_end_matches('.'), 50, &format!("n{}.{zone}.example", steps + 1));
        d.answer(&asked, &answer(&asked, vec![record]));
        steps += 1;
        assert!(steps < 20);
    }
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    assert_eq!((steps, d.stats().asking), (9, 0));
}

#[test]
fn a_chain_waits_no_longer_than_its_question() {
    let mut d = suffixes();
    d.query(&query("a.corp.example", RecordType::A));
    let asked = d.sent();
    d.pass(0.7);
    d.answer(&asked, &answer(&asked, vec![alias("a.corp.example", 50, "a.partner.example")]));
    d.pass(4.4);
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    d.pass(10.0);
    assert_eq!((d.stats().waiting, d.stats().asking, d.engine.next_timeout()), (0, 0, None::<Now>));
}

#[test]
fn records_of_other_names_are_left_out() {
    let mut d = Dialogue::new("{}");
    d.query(&query("x.example", RecordType::A));
    let asked = d.sent();
    let mut poisoned = answer(&asked, vec![a("x.example", 60, [10, 0, 0, 4]), a("bank.example", 60, [192, 0, 2, 66])]);
    poisoned.authorities.push(alias("unrelated.example", 60, "bank.example"));
    poisoned.additionals.push(a("ns.bank.example", 60, [192, 0, 2, 66]));
    d.answer(&asked, &poisoned);
    let reply = d.reply();
    assert_eq!(texts(&reply), ["60 A 10.0.0.4"]);
    assert!(reply.additionals.is_empty());
    assert_eq!(d.stats().upstream_strays, 1);
    // The other name is asked about, not taken from there.
    d.query(&query("bank.example", RecordType::A));
    assert_eq!(d.sent().kind(), RecordType::A);
}

#[test]
fn native_answers_are_found_again_in_one_step() {
    let mut d = both();
    d.query(&query("six.example", RecordType::AAAA));
    let (first, _second) = (d.sent(), d.sent());
    d.answer(&first, &answer(&first, vec![aaaa("six.example", 300, "fd00::6")]));
    d.reply();
    d.query(&query("six.example", RecordType::AAAA));
    assert_eq!(texts(&d.reply()), ["300 AAAA fd00::6"]);
    assert_eq!((d.stats().answered_cached, d.stats().cache_entries), (1, 2));
}
