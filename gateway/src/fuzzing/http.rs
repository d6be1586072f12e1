//! HTTP heads: the same answer however the bytes are cut, and no more than the limit is kept.

use super::Outcomes;
use super::input::Input;
use crate::wire::iphttps_http::{Finished, HttpError, MAX_HEAD, RequestParser, ResponseParser};

/// Feeds all bytes in pieces; the first outcome that is not "more".
fn feed<T>(
    bytes: &[u8],
    cut: usize,
    mut push: impl FnMut(&[u8]) -> Result<Option<Finished<T>>, HttpError>,
) -> Option<Result<(T, usize), HttpError>> {
    let mut done = 0;
    for piece in bytes.chunks(cut.max(1)) {
        match push(piece) {
            Ok(None) => done += piece.len(),
            Ok(Some(finished)) => {
                assert!(finished.used <= piece.len());
                return Some(Ok((finished.head, done + finished.used)));
            }
            Err(error) => return Some(Err(error)),
        }
    }
    None
}

/// Whether two ways of cutting agree. Garbage may be told from a long head earlier or later, but never from a good one.
fn agree<T: PartialEq + std::fmt::Debug>(
    whole: &Option<Result<(T, usize), HttpError>>,
    pieces: &Option<Result<(T, usize), HttpError>>,
) {
    match (whole, pieces) {
        (Some(Ok(one)), other) => assert_eq!(other.as_ref().and_then(|other| other.as_ref().ok()), Some(one)),
        (_, Some(Ok(_))) => panic!("a head only in pieces: {pieces:?}"),
        _ => {}
    }
}

pub fn request(input: &mut Input<'_>, seen: &mut Outcomes) {
    let (cut, max) = (usize::from(input.byte()), usize::from(input.word()));
    let bytes = input.rest();
    let (mut one, mut two) = (RequestParser::new(), RequestParser::new());
    let whole = feed(bytes, bytes.len(), |piece| one.push(piece));
    let pieces = feed(bytes, cut, |piece| two.push(piece));
    agree(&whole, &pieces);
    match whole {
        None => assert!(bytes.len() < MAX_HEAD),
        Some(Err(error)) => {
            assert!((400..500).contains(&error.status_hint()));
            seen.note("request", &error);
        }
        Some(Ok((head, used))) => {
            assert!(used <= MAX_HEAD && bytes[..used].ends_with(b"\n"));
            seen.note("iphttps", &head.is_iphttps());
            seen.note("segments", &head.offers_segments());
            seen.note("continue", &head.expects_continue());
            assert!(head.target.contains(head.path()) || head.path() == "/");
            let length = head.body_length(max);
            seen.note_result("body", &length);
            assert!(length.is_ok_and(|length| length <= max) || length.is_err());
        }
    }
}

pub fn response(input: &mut Input<'_>, seen: &mut Outcomes) {
    let cut = usize::from(input.byte());
    let bytes = input.rest();
    let (mut one, mut two) = (ResponseParser::new(), ResponseParser::new());
    let whole = feed(bytes, bytes.len(), |piece| one.push(piece));
    let pieces = feed(bytes, cut, |piece| two.push(piece));
    agree(&whole, &pieces);
    match whole {
        None => assert!(bytes.len() < MAX_HEAD),
        Some(Err(error)) => seen.note("response", &error),
        Some(Ok((head, used))) => {
            assert!(used <= MAX_HEAD);
            seen.note("success", &head.is_success());
            seen.note("segments", &head.agrees_segments());
        }
    }
}
