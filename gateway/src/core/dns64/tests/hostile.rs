//! Input that nobody should send: refused, counted, never fatal.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::dialogue::{Dialogue, a, answer, query};

#[test]
fn what_is_no_query_is_refused_or_dropped() {
    let mut d = Dialogue::new("{}");
    let good = query("x.example", RecordType::A).to_vec().expect("encodes");
    d.raw_query(1, &good[..11]);
    let mut response = good.clone();
    response[2] |= 0x80;
    d.raw_query(1, &response);
    d.no_reply();
    assert_eq!(d.stats().dropped_garbage, 2);

    let mut update = good.clone();
    update[2] |= 5 << 3;
    d.raw_query(1, &update);
    assert_eq!(d.reply().metadata.response_code, ResponseCode::NotImp);
    let mut two = good.clone();
    two[5] = 2;
    for bytes in [&good[..20], &two] {
        d.raw_query(1, bytes);
        let reply = d.raw_reply();
        assert_eq!((reply.len(), reply[3] & 0xf), (12, 1));
    }
    for (kind, code) in [
        (RecordType::AXFR, ResponseCode::Refused),
        (RecordType::Unknown(249), ResponseCode::NotImp),
        (RecordType::OPT, ResponseCode::FormErr),
    ] {
        d.query(&query("x.example", kind));
        assert_eq!(d.reply().metadata.response_code, code, "{kind}");
    }
    d.query(&query("x.example", RecordType::ANY));
    assert!(d.reply().metadata.truncation);
    d.nothing_sent();
}

#[test]
fn forged_answers_are_not_believed() {
    let mut d = Dialogue::new("{}");
    d.query(&query("target.example", RecordType::A));
    let asked = d.sent();
    let real = answer(&asked, vec![a("target.example", 60, [10, 0, 0, 4].into())]).to_vec().expect("encodes");
    d.raw_answer(asked.attempt + 77, asked.server, &real);
    d.no_reply();
    // The right id with the wrong letters: asked again where nobody can forge blindly.
    let mut wrong_case = real.clone();
    wrong_case[13] ^= 0x20;
    d.raw_answer(asked.attempt, asked.server, &wrong_case);
    d.no_reply();
    let again = d.sent();
    assert!(again.tcp);
    assert_eq!((d.stats().upstream_wrong_case, d.stats().upstream_unexpected), (1, 1));
    d.answer(&again, &answer(&again, vec![a("target.example", 60, [10, 0, 0, 5].into())]));
    assert_eq!(d.reply().answers.len(), 1);
}

#[test]
fn whoever_guesses_ids_drives_the_question_to_tcp() {
    let mut d = Dialogue::new("{}");
    d.query(&query("target.example", RecordType::A));
    let asked = d.sent();
    let real = answer(&asked, vec![a("target.example", 60, [10, 0, 0, 4].into())]).to_vec().expect("encodes");
    let mut wrong_id = real.clone();
    wrong_id[0] ^= 1;
    let mut wrong_name = real.clone();
    wrong_name[13] ^= 1;
    d.raw_answer(asked.attempt, asked.server, &wrong_id);
    d.raw_answer(asked.attempt, "10.0.0.99:53".parse().expect("an address"), &real);
    d.nothing_sent();
    d.raw_answer(asked.attempt, asked.server, &wrong_name);
    let again = d.sent();
    assert!(again.tcp && again.server == asked.server);
    // Even the right answer comes too late by UDP now.
    d.raw_answer(asked.attempt, asked.server, &real);
    d.no_reply();
    let stats = d.stats();
    assert_eq!((stats.upstream_unexpected, stats.upstream_guessed), (4, 1));
    // What is no response at all counts as well: too short, or a query.
    for bytes in [&asked.bytes[..], &real[..11]] {
        d.raw_answer(again.attempt, again.server, bytes);
    }
    d.no_reply();
    d.answer(&again, &answer(&again, vec![a("target.example", 60, [10, 0, 0, 5].into())]));
    assert_eq!(super::texts(&d.reply()), ["60 A 10.0.0.5"]);
}

#[test]
fn one_client_cannot_take_the_place_of_others() {
    let mut d = Dialogue::new(r#"{"max_queries": 8, "max_queries_per_client": 4}"#);
    let ask = |d: &mut Dialogue, host: u16, number: usize| {
        d.raw_query(host, &query(&format!("n{number}.example"), RecordType::A).to_vec().expect("encodes"));
    };
    (0..5).for_each(|number| ask(&mut d, 1, number));
    assert_eq!(d.reply().metadata.response_code, ResponseCode::Refused);
    (0..5).for_each(|number| ask(&mut d, 2, number));
    d.reply();
    ask(&mut d, 3, 0);
    assert_eq!(d.reply().metadata.response_code, ResponseCode::ServFail);
    let stats = d.stats();
    assert_eq!((stats.refused_client_limit, stats.refused_total_limit, stats.waiting), (2, 1, 8));
    d.pass(30.0);
    assert_eq!((d.stats().waiting, d.stats().asking, d.engine.next_timeout()), (0, 0, None));
}

#[test]
fn an_answer_with_its_opt_record_in_the_middle_is_put_in_order() {
    let mut d = Dialogue::new("{}");
    d.query(&query("odd.example", RecordType::A));
    let asked = d.sent();
    let mut bytes = answer(&asked, vec![a("odd.example", 60, [10, 0, 0, 4].into())]).to_vec().expect("encodes");
    // The OPT record is last; one more additional record behind it.
    bytes[11] = 2;
    bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 9]);
    d.raw_answer(asked.attempt, asked.server, &bytes);
    let reply = d.reply();
    assert_eq!((reply.answers.len(), reply.additionals.len(), reply.edns.is_none()), (1, 1, true));
}

/// A script of anything: queries and answers with damaged bytes, time passing.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

fn apply(bytes: &mut Vec<u8>, damage: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) {
    for (index, value) in damage {
        let at = index.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_queries_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut d = Dialogue::new(r#"{"only_send_a_query": false}"#);
        d.raw_query(1, &bytes);
        d.pass(20.0);
        prop_assert_eq!(d.stats().waiting, 0);
    }

    #[test]
    fn arbitrary_answers_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200), counts in any::<[u8; 6]>(), flags: u16) {
        let mut d = Dialogue::new(r#"{"only_send_a_query": false}"#);
        d.query(&query("x.example", RecordType::AAAA));
        for _ in 0..2 {
            let asked = d.sent();
            let mut bytes = asked.bytes[..asked.bytes.len() - 11].to_vec();
            bytes[2..4].copy_from_slice(&(flags | 0x8000).to_be_bytes());
            bytes[6..12].copy_from_slice(&counts.map(|count| count & 3));
            bytes.extend_from_slice(&tail);
            d.raw_answer(asked.attempt, asked.server, &bytes);
        }
        d.pass(20.0);
        prop_assert_eq!((d.stats().waiting, d.stats().asking), (0, 0));
    }

    #[test]
    fn damaged_dialogues_never_panic_and_always_end(
        steps in prop::collection::vec((damage(), damage(), prop::option::weighted(0.2, any::<prop::sample::Index>()), 0..4usize), 1..20)
    ) {
        let mut d = Dialogue::new(r#"{"only_send_a_query": false, "cache_entries": 4}"#);
        let kinds = [RecordType::AAAA, RecordType::A, RecordType::PTR, RecordType::TXT];
        for (in_query, in_answer, cut, kind) in steps {
            let mut bytes = query("www.example", kinds[kind]).to_vec().expect("encodes");
            apply(&mut bytes, &in_query, None);
            d.raw_query(1, &bytes);
            while let Some(asked) = d.try_sent() {
                let records = vec![super::alias("www.example", 9, "a.example"), a("a.example", 3, [10, 0, 0, 4].into())];
                let mut bytes = answer(&asked, records).to_vec().expect("encodes");
                apply(&mut bytes, &in_answer, cut);
                d.raw_answer(asked.attempt, asked.server, &bytes);
            }
            d.pass(1.0);
        }
        d.pass(40.0);
        prop_assert_eq!((d.stats().waiting, d.stats().asking), (0, 0));
        prop_assert!(d.stats().cache_entries <= 4);
    }
}
