//! What the administrator can set and ask: mappings, who is served, flushing, queries of his own.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::dialogue::{Dialogue, aaaa, answer, error, negative, query, texts};
use super::{PREFIX, a};
use crate::core::dns64::Source;
use crate::core::dns64::name::Name;

const MAPPINGS: &str = r#""prefix_mappings": [
    {"prefix": "fd00:1::/96", "network": "10.0.0.0/8"}, {"prefix": "fd00:2::/96", "network": "10.1.0.0/16"}]"#;

#[test]
fn each_network_has_its_prefix_and_the_rest_none() {
    let mut d = Dialogue::new(&format!("{{{MAPPINGS}}}"));
    d.query(&query("m.example", RecordType::AAAA));
    let asked = d.sent();
    let records = [[10, 0, 0, 1], [10, 1, 0, 1], [192, 0, 2, 1]].map(|address| a("m.example", 300, address));
    d.answer(&asked, &answer(&asked, records.to_vec()));
    assert_eq!(texts(&d.reply()), ["300 AAAA fd00:1::a00:1", "300 AAAA fd00:2::a01:1"]);

    // Only addresses without a prefix: no data, and the A records do not show through; asked once in their lifetime.
    for _ in 0..2 {
        d.query(&query("out.example", RecordType::AAAA));
        if let Some(asked) = d.try_sent() {
            d.answer(&asked, &answer(&asked, vec![a("out.example", 90, [192, 0, 2, 1])]));
        }
        let reply = d.reply();
        assert_eq!((reply.metadata.response_code, texts(&reply).len()), (ResponseCode::NoError, 0));
    }
    assert_eq!((d.stats().answered_cached, d.stats().synthesized), (1, 1));

    // PTR under both, and the well-known name with both.
    d.query(&query("ipv4only.arpa", RecordType::AAAA));
    let expected = ["fd00:1::c000:aa", "fd00:1::c000:ab", "fd00:2::c000:aa", "fd00:2::c000:ab"];
    assert_eq!(texts(&d.reply()), expected.map(|address| format!("600 AAAA {address}")));
    for prefix in ["1", "2"] {
        let reverse = format!("1.0.0.0.0.0.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.{prefix}.0.0.0.0.0.d.f.ip6.arpa");
        d.query(&query(&reverse, RecordType::CNAME));
        assert_eq!(texts(&d.reply()), ["600 CNAME 1.0.0.10.in-addr.arpa."]);
    }
    d.nothing_sent();
}

#[test]
fn addresses_without_a_prefix_do_not_show_through_either_way() {
    let mut d = Dialogue::new(&format!(r#"{{"only_send_a_query": false, {MAPPINGS}}}"#));
    let outside = |name: &str| vec![a(name, 90, [192, 0, 2, 1])];
    // AAAA says no data: that is the answer.
    d.query(&query("a.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&first, &negative(&first, ResponseCode::NoError, Some(60)));
    d.answer(&second, &answer(&second, outside("a.example")));
    let reply = d.reply();
    assert_eq!((texts(&reply).len(), reply.authorities.len()), (0, 1));
    // AAAA fails: an empty answer.
    d.query(&query("b.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&second, &answer(&second, outside("b.example")));
    d.answer(&first, &error(&first, ResponseCode::ServFail));
    let again = d.sent();
    d.answer(&again, &error(&again, ResponseCode::ServFail));
    let reply = d.reply();
    assert_eq!((reply.metadata.response_code, texts(&reply).len()), (ResponseCode::NoError, 0));
    // Native addresses are not touched by mappings.
    d.query(&query("c.example", RecordType::AAAA));
    let (first, _second) = (d.sent(), d.sent());
    d.answer(&first, &answer(&first, vec![aaaa("c.example", 60, "fd00:9::1")]));
    assert_eq!(texts(&d.reply()), ["60 AAAA fd00:9::1"]);
}

#[test]
fn strangers_are_refused() {
    let mut d = Dialogue::new(r#"{"accept_from": ["fd00:1::/48", "10.0.0.0/8"]}"#);
    for (address, served) in [("fd00:1::5", true), ("10.2.3.4", true), ("fd00:2::5", false), ("192.0.2.1", false)] {
        d.query_from(address, &query("ipv4only.arpa", RecordType::AAAA));
        let reply = d.reply();
        assert_eq!(reply.metadata.response_code == ResponseCode::NoError, served, "{address}");
        assert_eq!(reply.metadata.response_code == ResponseCode::Refused, !served, "{address}");
    }
    d.query_locally(&query("ipv4only.arpa", RecordType::AAAA));
    assert_eq!(d.report().0.answers.len(), 2);
    assert_eq!(d.stats().refused_stranger, 2);
}

#[test]
fn a_name_or_a_tree_is_forgotten_alone() {
    let mut d = Dialogue::new("{}");
    let resolve = |d: &mut Dialogue, name: &str| {
        d.query(&query(name, RecordType::AAAA));
        let asked = d.try_sent();
        if let Some(asked) = &asked {
            d.answer(asked, &answer(asked, vec![a(name, 600, [10, 0, 0, 4])]));
        }
        d.reply();
        asked.is_some()
    };
    for name in ["corp.example", "a.corp.example", "b.a.corp.example", "xcorp.example"] {
        assert!(resolve(&mut d, name));
    }
    let forget = |d: &mut Dialogue, name: &str, tree| d.engine.flush(Name::from_text(name).as_ref(), tree);
    // The A answer and what was made of it.
    assert_eq!(forget(&mut d, "A.corp.example", false), 2);
    assert!(resolve(&mut d, "a.corp.example") && !resolve(&mut d, "b.a.corp.example"));
    assert_eq!(forget(&mut d, "corp.example", true), 6);
    assert!(!resolve(&mut d, "xcorp.example") && resolve(&mut d, "corp.example"));
    assert_eq!(d.engine.flush(None, false), 4);
    assert_eq!(d.stats().cache_entries, 0);
}

#[test]
fn the_administrator_sees_where_an_answer_comes_from() {
    let mut d = Dialogue::new(r#"{"only_send_a_query": false}"#);
    d.query_locally(&query("x.example", RecordType::AAAA));
    let (first, second) = (d.sent(), d.sent());
    d.answer(&first, &negative(&first, ResponseCode::NoError, Some(60)));
    d.answer(&second, &answer(&second, vec![a("x.example", 300, [10, 0, 0, 4])]));
    let (reply, report) = d.report();
    assert_eq!(texts(&reply), [format!("60 AAAA {PREFIX}a00:4")]);
    assert_eq!((report.source, report.synthesized, report.server), (Source::Upstream, true, Some(second.server)));
    let asked: Vec<u16> = report.asked.iter().map(|asked| asked.kind).collect();
    assert_eq!((asked, report.asked[1].server, report.asked[1].rcode), (vec![28, 1], Some(second.server), 0));

    d.query_locally(&query("x.example", RecordType::AAAA));
    let (_, report) = d.report();
    assert_eq!((report.source, report.synthesized, report.asked.len()), (Source::Cache, true, 0));
    d.query_locally(&query("ipv4only.arpa", RecordType::A));
    assert_eq!(d.report().1.source, Source::Local);
    d.query_locally(&query("x.example", RecordType::AXFR));
    let (reply, report) = d.report();
    assert_eq!((reply.metadata.response_code, report.source), (ResponseCode::Refused, Source::Local));

    d.query_locally(&query("dead.example", RecordType::A));
    d.pass(5.0);
    let (reply, report) = d.report();
    assert_eq!((reply.metadata.response_code, report.asked[0].server), (ResponseCode::ServFail, None));
    assert_eq!(d.stats().queries_local, 5);
}
