//! DNS messages: clients' queries, names, and servers' answers as they are kept.

use super::Outcomes;
use super::input::Input;
use crate::core::dns64::answer::Answer;
use crate::core::dns64::message::{self, Query, QueryError};
use crate::core::dns64::name::Name;
use crate::core::time::Now;

pub fn message(input: &mut Input<'_>, seen: &mut Outcomes) {
    let bytes = input.rest();
    let parsed = Query::parse(bytes);
    seen.note_result("query", &parsed);
    match parsed {
        Ok(query) => {
            assert!(query.udp_limit() >= message::MIN_UDP && query.udp_limit() <= message::MAX_UDP);
            let asked = message::upstream_query(query.id, &query.question, true, query.checking_disabled(), Some(true));
            let again = Query::parse(&asked).expect("what is asked is a query");
            assert_eq!((again.id, again.question), (query.id, query.question));
            assert!(again.dnssec_ok());
            let reply = message::bare_reply(query.id, query.flags, 3, Some(&query.question), query.edns, 0);
            assert_eq!(Query::parse(&reply), Err(QueryError::Response));
            assert_eq!(message::question(&reply).map(|(question, _)| question), Some(query.question));
            name(&query.question.name, seen);
        }
        Err(QueryError::Opcode { id, flags } | QueryError::Malformed { id, flags }) => {
            assert_eq!((message::u16_at(bytes, 0), message::u16_at(bytes, 2)), (id, flags));
            assert!(message::bare_reply(id, flags, 1, None, None, 0).len() >= message::HEADER);
        }
        Err(QueryError::Short | QueryError::Response) => {}
    }
    if let Some(parsed) = Name::parse(bytes) {
        name(&parsed, seen);
    }
    if let Some(parsed) = std::str::from_utf8(bytes).ok().and_then(Name::from_text) {
        seen.note_text("text", "Name");
        assert!(parsed.wire().len() <= 255);
        assert_eq!(Name::parse(parsed.wire()), Some(parsed));
    }
    walk(bytes, seen);
}

fn name(name: &Name, seen: &mut Outcomes) {
    seen.note_text("wire", "Name");
    assert_eq!(name.wire().last(), Some(&0));
    assert!(name.labels().all(|label| (1..=63).contains(&label.len())));
    assert_eq!(name.lower().wire().len(), name.wire().len());
    assert_eq!(name.labels().map(|label| label.len() + 1).sum::<usize>() + 1, name.wire().len());
    if let Some(again) = Name::from_text(&name.to_string()) {
        assert_eq!(again, *name);
    }
}

fn walk(bytes: &[u8], seen: &mut Outcomes) {
    let Some((_, mut records)) = message::question(bytes) else { return };
    while records.more() {
        let Some(record) = records.next(bytes) else { return seen.note_text("records", "CutOff") };
        assert!(record.start < record.data && record.data <= record.end && record.end <= bytes.len());
        assert_eq!(records.position(), record.end);
        seen.note("section", &record.section);
    }
    seen.note_text("records", "Whole");
}

pub fn answer(input: &mut Input<'_>, seen: &mut Outcomes) {
    let (now, later) = (Now::from_secs(1000), Now::from_secs(1000 + u64::from(input.word())));
    let udp = input.bit();
    let bytes = input.rest();
    let parsed = Answer::from_server(now, bytes);
    seen.note_result("answer", &parsed);
    let Ok(answer) = parsed else { return };
    assert!(answer.ttl <= 86_400);
    for kind in [message::TYPE_A, message::TYPE_AAAA, message::TYPE_CNAME] {
        assert!(answer.data(kind).all(|data| data.len() <= bytes.len()));
    }
    let _ = (answer.decode(later), answer.has_address(|_| false), answer.is_fresh(later));
    let (question, _) = message::question(bytes).expect("an answer has a question");
    let query = Query { id: 7, flags: 0x0100, question, edns: None };
    let limit = if udp { message::MIN_UDP } else { 65_535 };
    let mut reply = Vec::new();
    let truncated = answer.reply(later, &query, limit, false, &mut reply);
    seen.note("truncated", &truncated);
    assert!(reply.len() <= limit.max(message::HEADER + question.name.wire().len() + 4));
    assert_eq!((message::u16_at(&reply, 0), message::u16_at(&reply, 2) & 0x8000), (7, 0x8000));
    assert_eq!(message::question(&reply).map(|(question, _)| question), Some(question));
}
