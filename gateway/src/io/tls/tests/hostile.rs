//! Records that are authentic and have no place, and floods of such that carry nothing.

use rustls::{AlertDescription, Error, PeerMisbehaved, SupportedCipherSuite};

use super::{End, pair, suites};
use crate::io::tls::failure::is_flood;
use crate::io::tls::record_key::content_type::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE};

fn suites_of(tls13: bool) -> impl Iterator<Item = SupportedCipherSuite> {
    suites().into_iter().filter(move |suite| suite.tls13().is_some() == tls13)
}

/// Sends records until they are refused; returns how many were taken and why no more.
fn flood(from: &mut End, to: &mut End, kind: u8, content: &[u8]) -> (usize, Error) {
    for taken in 0..1000 {
        from.send_as(kind, content);
        if let Err(error) = to.feed(&from.take()) {
            return (taken, error);
        }
    }
    panic!("a flood was not stopped");
}

#[test]
fn floods_are_stopped() {
    use PeerMisbehaved as P;
    // TLS 1.3 hides the kind: content, kind, zeros.
    let padded = [APPLICATION_DATA, 0, 0, 0];
    let cases: [(bool, u8, &[u8], usize, PeerMisbehaved); 6] = [
        (true, APPLICATION_DATA, b"", 32, P::TooManyEmptyFragments),
        (false, APPLICATION_DATA, b"", 32, P::TooManyEmptyFragments),
        (true, 0, &padded, 32, P::TooManyEmptyFragments),
        (false, HANDSHAKE, &[1, 0, 0, 0], 1, P::TooManyRenegotiationRequests),
        (false, ALERT, &[1, 90], 4, P::TooManyWarningAlertsReceived),
        (true, ALERT, &[1, 90], 4, P::TooManyWarningAlertsReceived),
    ];
    for (tls13, kind, content, taken, expected) in cases {
        for suite in suites_of(tls13) {
            let (mut client, mut server) = pair(suite);
            let (count, error) = flood(&mut client, &mut server, kind, content);
            assert_eq!((count, &error), (taken, &Error::PeerMisbehaved(expected.clone())));
            assert!(is_flood(&error));
        }
    }
}

#[test]
fn key_updates_without_data_are_limited() {
    for suite in suites_of(true) {
        let (mut client, mut server) = pair(suite);
        let mut update = || {
            client.tls.established().update_key(&mut client.out);
            client.take()
        };
        for _ in 0..32 {
            server.feed(&update()).unwrap();
        }
        let flood = Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests);
        assert_eq!(server.feed(&update()), Err(flood));
    }
}

#[test]
fn data_between_keeps_empty_records_legal() {
    let (mut client, mut server) = pair(suites()[0]);
    for _ in 0..100 {
        for _ in 0..32 {
            client.send_as(APPLICATION_DATA, b"");
        }
        client.send(b"x").unwrap();
        server.feed(&client.take()).unwrap();
    }
    assert_eq!(server.plain, [b'x'; 100]);
}

#[test]
fn what_has_no_place_is_refused_with_an_alert() {
    let both = [true, false];
    let cases: [(&[bool], u8, &[u8]); 12] = [
        (&both, CHANGE_CIPHER_SPEC, &[1]),
        (&both, HANDSHAKE, b""),
        (&both, HANDSHAKE, &[20, 0, 0, 0]),
        (&both, HANDSHAKE, &[4, 0, 0, 0]),
        (&both, ALERT, b""),
        (&both, ALERT, &[1]),
        (&both, ALERT, &[1, 90, 0]),
        (&both, ALERT, &[3, 90]),
        (&[true], ALERT, &[1, 100]),
        (&[true], HANDSHAKE, &[1, 0, 0, 0]),
        (&[true], 99, b"x"),
        (&[true], 0, b"\0\0\0\0"),
    ];
    for (versions, kind, content) in cases {
        for suite in versions.iter().flat_map(|&tls13| suites_of(tls13)) {
            let (mut client, mut server) = pair(suite);
            client.send_as(kind, content);
            assert!(server.feed(&client.take()).is_err(), "{suite:?} {kind} {content:?}");
            assert!(
                matches!(client.feed(&server.take()), Err(Error::AlertReceived(_))),
                "{suite:?} {kind} {content:?}"
            );
        }
    }
}

#[test]
fn records_in_the_clear_are_refused() {
    for suite in suites() {
        for record in
            [&[20, 3, 3, 0, 1, 1][..], &[21, 3, 3, 0, 2, 2, 40], &[22, 3, 3, 0, 4, 0, 0, 0, 0], &[24, 3, 3, 0, 0]]
        {
            let (_, mut server) = pair(suite);
            assert!(server.feed(record).is_err(), "{suite:?} {record:?}");
            assert!(!server.out.is_empty());
        }
    }
}

#[test]
fn a_record_too_long_is_refused_at_its_header() {
    for suite in suites() {
        let most: u16 = if suite.tls13().is_some() { 16_384 + 256 } else { 16_384 + 2048 };
        let header = |len: u16| [&[23, 3, 3][..], &len.to_be_bytes()].concat();
        let (mut client, mut server) = pair(suite);
        server.feed(&header(most)).unwrap();
        let (_, mut other) = pair(suite);
        assert_eq!(other.feed(&header(most + 1)), Err(Error::PeerSentOversizedRecord));
        drop((client.take(), server));
    }
}

#[test]
fn a_client_refuses_to_renegotiate_and_a_server_too() {
    for suite in suites_of(false) {
        let (mut client, mut server) = pair(suite);
        server.send_as(HANDSHAKE, &[0, 0, 0, 0]);
        client.feed(&server.take()).unwrap();
        // The warning is taken, and data goes on.
        client.send(b"data").unwrap();
        server.feed(&client.take()).unwrap();
        assert_eq!(server.plain, b"data");
        client.send_as(HANDSHAKE, &[1, 0, 0, 2, 3, 3]);
        server.feed(&client.take()).unwrap();
        server.send(b"more").unwrap();
        client.feed(&server.take()).unwrap();
        assert_eq!(client.plain, b"more");
    }
}

#[test]
fn a_fatal_alert_ends_it_without_an_answer() {
    for suite in suites() {
        let (mut client, mut server) = pair(suite);
        client.send_as(ALERT, &[2, 80]);
        assert_eq!(server.feed(&client.take()), Err(Error::AlertReceived(AlertDescription::InternalError)));
        assert!(server.out.is_empty());
    }
}

#[test]
fn what_follows_a_goodbye_is_ignored() {
    for suite in suites() {
        let (mut client, mut server) = pair(suite);
        client.send(b"last words").unwrap();
        client.close();
        client.send(b"ghost").unwrap();
        let mut bytes = client.take();
        bytes.extend_from_slice(&[0; 40]);
        server.feed(&bytes).unwrap();
        assert!(server.closed && server.pending.is_empty());
        assert_eq!(server.plain, b"last words");
        // Our direction is open until we close it.
        server.send(b"answer").unwrap();
        client.feed(&server.take()).unwrap();
        assert_eq!(client.plain, b"answer");
    }
}
