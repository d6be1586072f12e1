//! Dialogues: a query in, the expected question to a server, its answer in, the expected answer out.

mod dialogue;
mod hostile;
mod lifetime;
mod settings;

use std::net::Ipv4Addr;

use dialogue::{Dialogue, Sent, aaaa, alias, answer, error, negative, query, texts};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

const PREFIX: &str = "fd7c:1a2b:3c4d:7777::";

/// Both questions asked (OnlySendAQuery off).
fn both() -> Dialogue {
    Dialogue::new(r#"{"only_send_a_query": false}"#)
}

fn a(name: &str, ttl: u32, address: [u8; 4]) -> hickory_proto::rr::Record {
    dialogue::a(name, ttl, Ipv4Addr::from(address))
}

#[test]
fn only_a_is_asked_and_each_a_becomes_one_aaaa() {
    let mut d = Dialogue::new("{}");
    d.query(&query("App4.Corp.example", RecordType::AAAA));
    let asked = d.sent();
    assert_eq!((asked.kind(), asked.tcp), (RecordType::A, false));
    d.answer(
        &asked,
        &answer(&asked, vec![a("app4.corp.example", 900, [10, 0, 0, 4]), a("app4.corp.example", 900, [127, 0, 0, 1])]),
    );
    let reply = d.reply();
    assert_eq!(reply.queries[0].name().to_string(), "App4.Corp.example.");
    assert_eq!(reply.queries[0].query_type(), RecordType::AAAA);
    assert_eq!(texts(&reply), [format!("600 AAAA {PREFIX}a00:4"), format!("600 AAAA {PREFIX}7f00:1")]);
    assert!(!reply.metadata.authentic_data && reply.metadata.recursion_available);
    d.nothing_sent();

    // The next client is answered from the cache, TTLs counted down.
    d.pass(1.0);
    d.query(&query("app4.corp.example", RecordType::AAAA));
    assert_eq!(texts(&d.reply())[0], format!("599 AAAA {PREFIX}a00:4"));
    assert_eq!(d.stats().answered_cached, 1);
    d.pass(600.0);
    d.query(&query("app4.corp.example", RecordType::AAAA));
    // The A records themselves live 900 seconds.
    assert_eq!(texts(&d.reply())[0], format!("299 AAAA {PREFIX}a00:4"));
    d.nothing_sent();
}

#[test]
fn the_soa_of_the_missing_aaaa_bounds_the_ttl() {
    let mut d = both();
    d.query(&query("a.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    assert_eq!((first.kind(), second.kind()), (RecordType::AAAA, RecordType::A));
    d.answer(&second, &answer(&second, vec![a("a.example", 300, [10, 0, 0, 4])]));
    d.no_reply();
    d.answer(&first, &negative(&first, ResponseCode::NoError, Some(60)));
    assert_eq!(texts(&d.reply()), [format!("60 AAAA {PREFIX}a00:4")]);
}

#[test]
fn native_addresses_win_and_nxdomain_is_passed_on() {
    let mut d = both();
    d.query(&query("six.example", RecordType::AAAA));
    let (first, _a) = (d.sent(), d.sent());
    d.answer(&first, &answer(&first, vec![aaaa("six.example", 300, "fd00::6")]));
    assert_eq!(texts(&d.reply()), ["300 AAAA fd00::6"]);

    d.query(&query("none.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&first, &negative(&first, ResponseCode::NXDomain, Some(60)));
    let reply = d.reply();
    assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
    d.answer(&second, &answer(&second, vec![a("none.example", 300, [10, 0, 0, 4])]));
    d.no_reply();
}

#[test]
fn mapped_and_excluded_addresses_do_not_count() {
    let mut d = Dialogue::new(r#"{"only_send_a_query": false, "exclusions": ["2001:db8::/32", "native.example"]}"#);
    for bad in ["::ffff:10.0.0.6", "2001:db8::1"] {
        let name = if bad.starts_with("::") { "m.example" } else { "x.example" };
        d.query(&query(name, RecordType::AAAA));
        let (first, second) = (d.sent(), d.sent());
        d.answer(&first, &answer(&first, vec![aaaa(name, 300, bad)]));
        d.answer(&second, &answer(&second, vec![a(name, 300, [10, 0, 0, 6])]));
        assert_eq!(texts(&d.reply()), [format!("300 AAAA {PREFIX}a00:6")], "{bad}");
    }
    // One good address beside it: only that one.
    d.query(&query("mixed.example", RecordType::AAAA));
    let (first, _a) = (d.sent(), d.sent());
    let records = vec![aaaa("mixed.example", 300, "::ffff:10.0.0.6"), aaaa("mixed.example", 300, "fd00::6")];
    d.answer(&first, &answer(&first, records));
    assert_eq!(texts(&d.reply()), ["300 AAAA fd00::6"]);
    // Nothing good and no A: the bad one is not shown either.
    d.query(&query("bad.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&first, &answer(&first, vec![aaaa("bad.example", 300, "::ffff:10.0.0.6")]));
    d.answer(&second, &negative(&second, ResponseCode::NoError, Some(60)));
    assert!(texts(&d.reply()).is_empty());
    // Names on the list get what the servers say.
    d.query(&query("www.native.example", RecordType::AAAA));
    let only = d.sent();
    d.answer(&only, &negative(&only, ResponseCode::NoError, Some(60)));
    assert!(texts(&d.reply()).is_empty());
    d.nothing_sent();
}

#[test]
fn errors_and_silence_about_aaaa_count_as_no_aaaa() {
    let mut d = both();
    d.query(&query("servfail.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&second, &answer(&second, vec![a("servfail.example", 300, [10, 0, 0, 4])]));
    d.answer(&first, &error(&first, ResponseCode::ServFail));
    // The second server may know better.
    let again = d.sent();
    assert_ne!(again.server, first.server);
    d.answer(&again, &error(&again, ResponseCode::Refused));
    assert_eq!(texts(&d.reply()), [format!("300 AAAA {PREFIX}a00:4")]);

    d.query(&query("silent.example", RecordType::AAAA));
    let (_silent, second) = (d.sent(), d.sent());
    d.answer(&second, &answer(&second, vec![a("silent.example", 900, [10, 0, 0, 5])]));
    d.no_reply();
    d.pass(0.39);
    d.no_reply();
    d.pass(0.02);
    assert_eq!(texts(&d.reply()), [format!("600 AAAA {PREFIX}a00:5")]);
}

/// Asks about a name of which A is answered after `delay` seconds and AAAA never; returns how long the client then waits.
fn without_aaaa(d: &mut Dialogue, name: &str, delay: f64, of_a: impl Fn(&Sent) -> hickory_proto::op::Message) -> f64 {
    d.forget_sent();
    d.query(&query(name, RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    assert_eq!((first.kind(), second.kind()), (RecordType::AAAA, RecordType::A));
    d.pass(delay);
    d.answer(&second, &of_a(&second));
    let mut waited = 0.0;
    while d.try_reply().is_none() {
        d.pass(0.01);
        waited += 0.01;
        assert!(waited < 10.0, "no answer about {name}");
    }
    waited
}

#[test]
fn a_server_that_withholds_aaaa_costs_clients_little_and_less_when_it_is_known() {
    let one = r#"{"only_send_a_query": false, "upstreams": [{"suffix": "", "servers": ["10.0.0.53"]}]}"#;
    let mut d = Dialogue::new(one);
    let address = |asked: &Sent| answer(asked, vec![a(&name_of(asked), 300, [10, 0, 0, 4])]);
    let nothing = |asked: &Sent| negative(asked, ResponseCode::NoError, Some(60));
    let no_name = |asked: &Sent| negative(asked, ResponseCode::NXDomain, Some(60));

    // Unknown: as long as a lost question takes to be repeated, or as long as A took, but half of the servers' time at most.
    assert!((0.39..0.42).contains(&without_aaaa(&mut d, "one.example", 0.0, address)));
    assert!((0.69..0.72).contains(&without_aaaa(&mut d, "two.example", 0.7, address)));
    assert!((0.49..0.52).contains(&without_aaaa(&mut d, "three.example", 2.0, address)));
    assert_eq!(d.stats().synthesized_without_aaaa, 3);
    // No such name: neither AAAA. A name without A may have AAAA and nothing else: that answer is waited for.
    assert!((0.39..0.42).contains(&without_aaaa(&mut d, "none.example", 0.0, no_name)));
    assert!(without_aaaa(&mut d, "six.example", 0.0, nothing) > 4.5);

    // By now the questions before have ended: known.
    let known = &d.stats().servers[0];
    assert!(known.withholds_aaaa && !known.resting);
    assert!((0.04..0.07).contains(&without_aaaa(&mut d, "four.example", 0.0, address)));
    assert!((0.04..0.07).contains(&without_aaaa(&mut d, "five.example", 1.0, address)));
    assert!((0.04..0.07).contains(&without_aaaa(&mut d, "six-more.example", 0.0, nothing)));

    // It is asked all the same, and one answer sets it right.
    d.forget_sent();
    d.query(&query("again.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&second, &address(&second));
    d.no_reply();
    d.answer(&first, &answer(&first, vec![aaaa("again.example", 300, "fd00::6")]));
    assert_eq!(texts(&d.reply()), ["300 AAAA fd00::6"]);
    assert!(!d.stats().servers[0].withholds_aaaa);
    assert!((0.39..0.42).contains(&without_aaaa(&mut d, "last.example", 0.0, address)));
    d.pass(10.0);
    assert_eq!((d.stats().waiting, d.stats().asking), (0, 0));
}

#[test]
fn aaaa_is_asked_of_the_server_that_answers_it_and_the_other_stays_first_for_the_rest() {
    let mut d = both();
    let ask = |d: &mut Dialogue, name: &str| {
        d.query(&query(name, RecordType::AAAA));
        let (first, second) = (d.sent(), d.sent());
        assert_eq!((first.kind(), second.kind()), (RecordType::AAAA, RecordType::A));
        assert_eq!(second.server.to_string(), "10.0.0.53:53");
        d.answer(&second, &answer(&second, vec![a(name, 300, [10, 0, 0, 4])]));
        first
    };
    for name in ["one.example", "two.example"] {
        assert_eq!(ask(&mut d, name).server.to_string(), "10.0.0.53:53");
        d.pass(0.9);
        // The client has its answer, made of A; the other server's word on AAAA is late for it.
        assert_eq!(d.reply().answers.len(), 1);
        let again = d.sent();
        assert_eq!((again.kind(), again.server.to_string()), (RecordType::AAAA, "10.0.0.54:53".into()));
        d.answer(&again, &negative(&again, ResponseCode::NoError, Some(60)));
        d.forget_sent();
    }
    let servers = d.stats().servers;
    assert_eq!((servers[0].withholds_aaaa, servers[1].withholds_aaaa), (true, false));
    assert!(servers.iter().all(|server| !server.resting));
    let asked = ask(&mut d, "three.example");
    assert_eq!(asked.server.to_string(), "10.0.0.54:53");
    d.no_reply();
    d.answer(&asked, &negative(&asked, ResponseCode::NoError, Some(60)));
    assert_eq!(texts(&d.reply()), [format!("60 AAAA {PREFIX}a00:4")]);
}

fn name_of(asked: &Sent) -> String {
    asked.message.queries[0].name().to_ascii().to_lowercase().trim_end_matches('.').to_string()
}

#[test]
fn what_fails_altogether_is_servfail_and_is_not_asked_again_at_once() {
    let mut d = both();
    d.query(&query("dead.example", RecordType::AAAA));
    d.pass(5.0);
    // The A question, asked at the same time, ended with it.
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    d.forget_sent();
    d.query(&query("dead.example", RecordType::AAAA));
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    d.nothing_sent();
    assert_eq!((d.stats().waiting, d.stats().asking), (0, 0));
}

#[test]
fn aliases_are_kept() {
    let mut d = Dialogue::new("{}");
    d.query(&query("www.example", RecordType::AAAA));
    let asked = d.sent();
    let records = vec![alias("www.example", 50, "app.example"), a("app.example", 300, [10, 0, 0, 4])];
    d.answer(&asked, &answer(&asked, records));
    assert_eq!(texts(&d.reply()), ["50 CNAME app.example.".to_string(), format!("300 AAAA {PREFIX}a00:4")]);
}

#[test]
fn the_windows_settings_do_what_they_say() {
    // AlwaysSynthesize: A before AAAA, AAAA where there is no A.
    let mut d = Dialogue::new(r#"{"only_send_a_query": false, "always_synthesize": true}"#);
    d.query(&query("dual.example", RecordType::AAAA));
    let (_aaaa, second) = (d.sent(), d.sent());
    d.answer(&second, &answer(&second, vec![a("dual.example", 300, [10, 0, 0, 4])]));
    assert_eq!(texts(&d.reply()), [format!("300 AAAA {PREFIX}a00:4")]);
    d.query(&query("six.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&second, &negative(&second, ResponseCode::NoError, Some(60)));
    d.no_reply();
    d.answer(&first, &answer(&first, vec![aaaa("six.example", 300, "fd00::6")]));
    assert_eq!(texts(&d.reply()), ["300 AAAA fd00::6"]);

    // LatencyMilliseconds: A only when AAAA has not answered by then, or answered that there is none.
    let mut d = Dialogue::new(r#"{"only_send_a_query": false, "latency_ms": 50}"#);
    d.query(&query("late.example", RecordType::AAAA));
    assert_eq!(d.sent().kind(), RecordType::AAAA);
    d.pass(0.049);
    d.nothing_sent();
    d.pass(0.001);
    assert_eq!(d.sent().kind(), RecordType::A);
    d.query(&query("early.example", RecordType::AAAA));
    let first = d.sent();
    d.answer(&first, &negative(&first, ResponseCode::NoError, Some(60)));
    assert_eq!(d.sent().kind(), RecordType::A);
}

#[test]
fn validating_clients_get_what_the_server_signed() {
    let mut d = Dialogue::new("{}");
    let mut validating = query("v.example", RecordType::AAAA);
    validating.metadata.checking_disabled = true;
    dialogue::set_edns(&mut validating, 4096, true);
    d.query(&validating);
    let asked = d.sent();
    assert_eq!(asked.kind(), RecordType::AAAA);
    assert!(asked.message.metadata.checking_disabled);
    let edns = asked.message.edns.as_ref().expect("EDNS");
    assert!(edns.flags().dnssec_ok && edns.max_payload() == 1232);
    d.answer(&asked, &negative(&asked, ResponseCode::NoError, Some(60)));
    let reply = d.reply();
    assert!(texts(&reply).is_empty() && reply.metadata.checking_disabled);
    assert!(reply.edns.expect("EDNS").flags().dnssec_ok);
}

#[test]
fn ad_goes_to_those_who_ask_for_it_and_never_with_synthesis() {
    let mut d = Dialogue::new("{}");
    d.query(&query("s.example", RecordType::A));
    let asked = d.sent();
    let mut signed = answer(&asked, vec![a("s.example", 300, [10, 0, 0, 4])]);
    signed.metadata.authentic_data = true;
    d.answer(&asked, &signed);
    assert!(!d.reply().metadata.authentic_data);
    let mut asking = query("s.example", RecordType::A);
    asking.metadata.authentic_data = true;
    d.query(&asking);
    assert!(d.reply().metadata.authentic_data);
    let mut asking = query("s.example", RecordType::AAAA);
    asking.metadata.authentic_data = true;
    d.query(&asking);
    let reply = d.reply();
    assert!(!reply.metadata.authentic_data && reply.answers.len() == 1);
}

#[test]
fn what_was_validated_about_a_says_nothing_about_aaaa() {
    // OnlySendAQuery: the answer about A is all there is for AAAA.
    for (code, proven) in [(ResponseCode::NoError, false), (ResponseCode::NXDomain, true)] {
        let mut d = Dialogue::new("{}");
        let mut asking = query("six.example", RecordType::AAAA);
        asking.metadata.authentic_data = true;
        d.query(&asking);
        let asked = d.sent();
        let mut none = negative(&asked, code, Some(60));
        none.metadata.authentic_data = true;
        d.answer(&asked, &none);
        let reply = d.reply();
        assert_eq!((reply.metadata.response_code, reply.metadata.authentic_data), (code, proven));
        d.query(&asking);
        assert_eq!(d.reply().metadata.authentic_data, proven, "from the cache");
    }
}

#[test]
fn an_answer_sheds_what_can_be_spared_before_it_is_truncated() {
    // (answers, name servers, additional records) that the server sends and that arrive in 512 bytes; 23 fill them.
    for (sent, arrived) in [
        ((4, 2, 2), Some((4, 2, 2))),
        ((20, 2, 9), Some((20, 2, 0))),
        ((22, 9, 0), Some((22, 0, 0))),
        ((22, 9, 9), Some((22, 0, 0))),
        ((30, 0, 0), None),
        // A referral is nothing without its glue.
        ((0, 9, 40), None),
    ] {
        let mut d = Dialogue::new("{}");
        d.query(&query("many.example", RecordType::A));
        let asked = d.sent();
        let hosts =
            |count: usize| (0..count as u8).map(|host| a("many.example", 60, [10, 0, 0, host])).collect::<Vec<_>>();
        let whole = |asked: &Sent| {
            let mut message = answer(asked, hosts(sent.0));
            message.authorities = (0..sent.1).map(|_| dialogue::name_server("example", 60, "ns.example")).collect();
            message.additionals = hosts(sent.2);
            message
        };
        d.answer(&asked, &whole(&asked));
        let reply = d.reply();
        assert_eq!(reply.metadata.truncation, arrived.is_none(), "{sent:?}");
        let counts = (reply.answers.len(), reply.authorities.len(), reply.additionals.len());
        assert_eq!(counts, arrived.unwrap_or((0, 0, 0)), "{sent:?}");
        d.query_tcp(&query("many.example", RecordType::A));
        // A referral is not kept, and so asked for again.
        if let Some(again) = d.try_sent() {
            d.answer(&again, &whole(&again));
        }
        assert_eq!(d.reply().additionals.len(), sent.2, "all of it by TCP");
    }
}

#[test]
fn reverse_names_lead_to_the_ipv4_tree() {
    let mut d = Dialogue::new("{}");
    let reverse = "4.0.0.0.0.0.a.0.0.0.0.0.0.0.0.0.7.7.7.7.d.4.c.3.b.2.a.1.c.7.d.f.ip6.arpa";
    d.query(&query(reverse, RecordType::PTR));
    let asked = d.sent();
    assert_eq!(asked.message.queries[0].name().to_lowercase().to_string(), "4.0.0.10.in-addr.arpa.");
    d.answer(&asked, &answer(&asked, vec![dialogue::pointer("4.0.0.10.in-addr.arpa", 300, "app4.example")]));
    let reply = d.reply();
    assert_eq!(reply.queries[0].name().to_string(), format!("{reverse}."));
    assert_eq!(texts(&reply), ["600 CNAME 4.0.0.10.in-addr.arpa.", "300 PTR app4.example."]);
    d.query(&query(reverse, RecordType::CNAME));
    assert_eq!(texts(&d.reply()), ["600 CNAME 4.0.0.10.in-addr.arpa."]);
    d.query(&query(reverse, RecordType::PTR));
    assert_eq!(d.reply().answers.len(), 2);
    d.nothing_sent();

    let nobody = reverse.replacen('4', "9", 1);
    d.query(&query(&nobody, RecordType::PTR));
    let asked = d.sent();
    d.answer(&asked, &negative(&asked, ResponseCode::NXDomain, Some(60)));
    let reply = d.reply();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 1));
}

#[test]
fn the_prefix_is_found_without_any_server() {
    let mut d = Dialogue::new("{}");
    d.query(&query("IPv4only.ARPA", RecordType::AAAA));
    assert_eq!(texts(&d.reply()), [format!("600 AAAA {PREFIX}c000:aa"), format!("600 AAAA {PREFIX}c000:ab")]);
    d.query(&query("ipv4only.arpa", RecordType::A));
    assert_eq!(texts(&d.reply()), ["86400 A 192.0.0.170", "86400 A 192.0.0.171"]);
    d.query(&query("170.0.0.192.in-addr.arpa", RecordType::PTR));
    assert_eq!(texts(&d.reply()), ["86400 PTR ipv4only.arpa."]);
    d.nothing_sent();
}

#[test]
fn other_types_pass_byte_for_byte() {
    let mut d = Dialogue::new("{}");
    d.query(&query("x.example", RecordType::Unknown(65_280)));
    let Sent { attempt, server, bytes, .. } = d.sent();
    // A record of a type nobody knows, its name compressed, in a message without an OPT record.
    let mut response = bytes.clone();
    response.truncate(bytes.len() - 11);
    response[2] |= 0x80;
    response[7] = 1;
    response[11] = 0;
    let record = [0xc0, 12, 255, 0, 0, 1, 0, 0, 0, 60, 0, 3, 0xde, 0xad, 0xc0];
    response.extend_from_slice(&record);
    d.raw_answer(attempt, server, &response);
    assert_eq!(&d.raw_reply()[response.len() - record.len()..], &record);
}

#[test]
fn truncation_leads_to_tcp_on_both_sides() {
    let mut d = Dialogue::new("{}");
    d.query(&query("big.example", RecordType::A));
    let asked = d.sent();
    let mut cut = answer(&asked, vec![]);
    cut.metadata.truncation = true;
    d.answer(&asked, &cut);
    let again = d.sent();
    assert!(again.tcp && again.server == asked.server);
    let records = (0..60).map(|host| a("big.example", 300, [10, 0, 0, host])).collect();
    d.answer(&again, &answer(&again, records));
    let reply = d.reply();
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    d.query_tcp(&query("big.example", RecordType::A));
    let reply = d.reply();
    assert!(!reply.metadata.truncation && reply.answers.len() == 60);
    d.nothing_sent();
}

#[test]
fn small_udp_limits_are_kept_with_and_without_edns() {
    let mut d = Dialogue::new("{}");
    d.query(&query("wide.example", RecordType::AAAA));
    let asked = d.sent();
    let records = (0..25).map(|host| a("wide.example", 300, [10, 0, 0, host])).collect();
    d.answer(&asked, &answer(&asked, records));
    // 25 AAAA records of 28 bytes are more than 512 bytes.
    assert!(d.reply().metadata.truncation);
    for (payload, truncated) in [(512, true), (700, true), (1232, false), (65_535, false)] {
        let mut wide = query("wide.example", RecordType::AAAA);
        dialogue::set_edns(&mut wide, payload, false);
        d.query(&wide);
        assert_eq!(d.reply().metadata.truncation, truncated, "{payload}");
    }
}

#[test]
fn servers_are_chosen_by_suffix_and_names_of_nobody_are_refused() {
    let mut d = Dialogue::new(
        r#"{"upstreams": [{"suffix": "corp.example", "servers": ["10.0.0.1"]}, {"suffix": "lab.corp.example", "servers": ["10.0.0.2"]}]}"#,
    );
    d.query(&query("a.corp.example", RecordType::A));
    assert_eq!(d.sent().server.to_string(), "10.0.0.1:53");
    d.query(&query("a.LAB.corp.example", RecordType::A));
    assert_eq!(d.sent().server.to_string(), "10.0.0.2:53");
    d.query(&query("example.org", RecordType::A));
    assert_eq!(d.reply().metadata.response_code, ResponseCode::Refused);
    d.nothing_sent();
}

#[test]
fn silent_servers_are_replaced_and_late_answers_still_count() {
    let mut d = Dialogue::new("{}");
    d.query(&query("slow.example", RecordType::A));
    let first = d.sent();
    d.pass(0.9);
    let second = d.sent();
    assert_ne!(first.server, second.server);
    d.answer(&first, &answer(&first, vec![a("slow.example", 60, [10, 0, 0, 4])]));
    assert_eq!(texts(&d.reply()), ["60 A 10.0.0.4"]);
    // The same message once more answers nothing.
    d.answer(&first, &answer(&first, vec![]));
    assert_eq!(d.stats().upstream_unexpected, 1);
    d.query(&query("closed.example", RecordType::A));
    let first = d.sent();
    d.unreachable(&first);
    assert_ne!(d.sent().server, first.server);
}

#[test]
fn a_server_without_edns_is_asked_without() {
    let mut d = Dialogue::new("{}");
    d.query(&query("old.example", RecordType::A));
    let asked = d.sent();
    d.answer(&asked, &error(&asked, ResponseCode::FormErr));
    let again = d.sent();
    assert!(again.message.edns.is_none() && again.server == asked.server);
    d.answer(&again, &answer(&again, vec![a("old.example", 60, [10, 0, 0, 4])]));
    assert_eq!(texts(&d.reply()), ["60 A 10.0.0.4"]);
    d.query(&query("next.example", RecordType::A));
    assert!(d.sent().message.edns.is_none());
}

#[test]
fn one_question_is_asked_once_for_all_clients() {
    let mut d = Dialogue::new("{}");
    for _ in 0..5 {
        d.query(&query("same.example", RecordType::AAAA));
    }
    let asked = d.sent();
    d.nothing_sent();
    d.answer(&asked, &answer(&asked, vec![a("same.example", 60, [10, 0, 0, 4])]));
    for _ in 0..5 {
        assert_eq!(d.reply().answers.len(), 1);
    }
    assert_eq!((d.stats().joined, d.stats().synthesized), (4, 5));
}

#[test]
fn negative_answers_are_kept_as_long_as_the_soa_says() {
    let mut d = Dialogue::new("{}");
    d.query(&query("no.example", RecordType::A));
    let asked = d.sent();
    d.answer(&asked, &negative(&asked, ResponseCode::NXDomain, Some(60)));
    d.reply();
    d.pass(59.0);
    d.query(&query("no.example", RecordType::A));
    assert_eq!(d.reply().authorities[0].ttl, 1);
    d.pass(1.0);
    d.query(&query("no.example", RecordType::A));
    let asked = d.sent();
    // Without an SOA nothing says how long.
    d.answer(&asked, &negative(&asked, ResponseCode::NXDomain, None));
    d.reply();
    d.query(&query("no.example", RecordType::A));
    d.sent();
}

#[test]
fn another_configuration_takes_over_questions_on_their_way() {
    let mut d = Dialogue::new("{}");
    d.query(&query("moved.example", RecordType::AAAA));
    let old = d.sent();
    d.configure(r#"{"upstreams": [{"suffix": "", "servers": ["10.9.9.9"]}]}"#);
    d.answer(&old, &answer(&old, vec![a("moved.example", 60, [10, 0, 0, 4])]));
    d.no_reply();
    let new = d.sent();
    assert_eq!(new.server.to_string(), "10.9.9.9:53");
    d.answer(&new, &answer(&new, vec![a("moved.example", 60, [10, 0, 0, 4])]));
    assert_eq!(d.reply().answers.len(), 1);
}

#[test]
fn random_letters_do_not_reach_clients_through_dname() {
    let mut d = Dialogue::new("{}");
    d.query(&query("host.tree.example", RecordType::A));
    let asked = d.sent();
    let spelled = asked.message.queries[0].name().to_ascii();
    assert_ne!(spelled, spelled.to_lowercase());
    let label = spelled.split('.').next().expect("a label");
    let redirect = dialogue::redirect("tree.example", 300, b"\x03sub\x07example\x00");
    let derived = alias(spelled.trim_end_matches('.'), 300, &format!("{label}.sub.example"));
    d.answer(&asked, &answer(&asked, vec![redirect, derived, a("host.sub.example", 300, [10, 0, 0, 9])]));
    let reply = d.reply();
    assert_eq!(reply.answers[1].name.to_ascii(), "host.tree.example.");
    assert_eq!(texts(&reply)[1], "300 CNAME host.sub.example.");
    assert_eq!(reply.answers.len(), 3);
}
