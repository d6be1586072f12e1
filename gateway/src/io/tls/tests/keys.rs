//! Key updates as such: answers, messages over several records, what may not stand beside them.

use rustls::{Error, PeerMisbehaved};

use super::{End, pair, suites};
use crate::io::tls::record_key::content_type::{APPLICATION_DATA, HANDSHAKE};

const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];

fn ends() -> (End, End) {
    pair(suites().into_iter().find(|suite| suite.tls13().is_some()).unwrap())
}

#[test]
fn a_request_in_two_records_is_answered_once() {
    let (mut one, mut two) = ends();
    one.send_as(HANDSHAKE, &UPDATE_REQUESTED[..2]);
    two.feed(&one.take()).unwrap();
    assert!(two.out.is_empty());
    one.send_as(HANDSHAKE, &UPDATE_REQUESTED[2..]);
    two.feed(&one.take()).unwrap();
    assert!(!two.out.is_empty());
    one.feed(&two.take()).unwrap();
    assert!(one.out.is_empty());
    // Both sides of the answer hold.
    two.send(b"new key").unwrap();
    one.feed(&two.take()).unwrap();
    assert_eq!(one.plain, b"new key");
}

#[test]
fn nothing_may_stand_beside_a_key_update() {
    let refused = |records: &[(u8, &[u8])]| {
        let (mut one, mut two) = ends();
        for (kind, content) in records {
            one.send_as(*kind, content);
        }
        two.feed(&one.take()).unwrap_err()
    };
    let behind = refused(&[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])]);
    assert_eq!(behind, Error::PeerMisbehaved(PeerMisbehaved::KeyEpochWithPendingFragment));
    let between = refused(&[(HANDSHAKE, &UPDATE[..3]), (APPLICATION_DATA, b"between")]);
    assert_eq!(between, Error::PeerMisbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
}

#[test]
fn malformed_updates_are_refused() {
    for bytes in [&[24, 0, 0, 0][..], &[24, 0, 0, 1, 2], &[24, 0, 0, 2, 0, 0], &[24, 1, 0, 0]] {
        let (mut one, mut two) = ends();
        one.send_as(HANDSHAKE, bytes);
        assert!(two.feed(&one.take()).is_err(), "{bytes:?}");
        assert!(matches!(one.feed(&two.take()), Err(Error::AlertReceived(_))));
    }
}
