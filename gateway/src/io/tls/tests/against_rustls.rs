//! rustls is at the other end: both roles, both versions, all ciphers, key updates at any time.

use rustls::{ClientConnection, Connection, Error, ServerConnection, SupportedCipherSuite};

use super::{End, configs, name, rustls_reads, rustls_writes, suites};
use crate::io::tls::Tls;

/// Our end and rustls's, established.
fn couple(suite: SupportedCipherSuite, we_serve: bool) -> (End, Connection) {
    let (server, client) = configs(suite);
    let (mut ours, mut theirs) = match we_serve {
        true => {
            let theirs = ClientConnection::new(client, name()).unwrap();
            (End::new(Tls::server(server).unwrap()), Connection::from(theirs))
        }
        false => {
            let theirs = ServerConnection::new(server).unwrap();
            (End::new(Tls::client(client, name()).unwrap()), Connection::from(theirs))
        }
    };
    ours.feed(&[]).unwrap();
    while ours.tls.is_handshaking() || theirs.is_handshaking() || theirs.wants_write() {
        assert_eq!(rustls_reads(&mut theirs, &ours.take()).unwrap(), b"");
        ours.feed(&rustls_writes(&mut theirs, b"")).unwrap();
    }
    assert_eq!(rustls_reads(&mut theirs, &ours.take()).unwrap(), b"");
    (ours, theirs)
}

fn every_way() -> impl Iterator<Item = (SupportedCipherSuite, bool)> {
    suites().into_iter().flat_map(|suite| [(suite, true), (suite, false)])
}

/// Bytes that tell where they are.
fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn data_of_any_size_passes_both_ways() {
    for (suite, we_serve) in every_way() {
        let (mut ours, mut theirs) = couple(suite, we_serve);
        for len in [1, 2, 100, 1280, 16_383, 16_384, 16_385, 40_000, 200_000] {
            let data = sample(len);
            ours.send(&data).unwrap();
            assert_eq!(rustls_reads(&mut theirs, &ours.take()).unwrap(), data, "{suite:?}");
            ours.feed(&rustls_writes(&mut theirs, &data)).unwrap();
            assert_eq!(std::mem::take(&mut ours.plain), data, "{suite:?}");
        }
        ours.close();
        rustls_reads(&mut theirs, &ours.take()).unwrap();
        assert!(theirs.process_new_packets().unwrap().peer_has_closed());
        theirs.send_close_notify();
        ours.feed(&rustls_writes(&mut theirs, b"")).unwrap();
        assert!(ours.closed);
    }
}

#[test]
fn data_right_behind_the_handshake_is_not_lost() {
    for suite in suites() {
        let (server, client) = configs(suite);
        let mut ours = End::new(Tls::server(server).unwrap());
        let mut theirs = Connection::from(ClientConnection::new(client, name()).unwrap());
        loop {
            // rustls keeps what is written during the handshake and sends it right behind its last message.
            let flight = rustls_writes(&mut theirs, b"early bird ");
            ours.feed(&flight).unwrap();
            if !ours.tls.is_handshaking() {
                break;
            }
            rustls_reads(&mut theirs, &ours.take()).unwrap();
        }
        rustls_reads(&mut theirs, &ours.take()).unwrap();
        ours.feed(&rustls_writes(&mut theirs, b"done")).unwrap();
        let text = String::from_utf8(ours.plain).unwrap();
        assert!(text.starts_with("early bird early bird ") && text.ends_with("done"), "{text}");
    }
}

#[test]
fn keys_change_at_any_time() {
    for (suite, we_serve) in every_way().filter(|(suite, _)| suite.tls13().is_some()) {
        let (mut ours, mut theirs) = couple(suite, we_serve);
        for round in 0..40 {
            let data = sample(round * 37 + 1);
            if round % 3 == 0 {
                // Asks for a change of ours as well; the answer comes in front of our next data.
                theirs.refresh_traffic_keys().unwrap();
            }
            ours.feed(&rustls_writes(&mut theirs, &data)).unwrap();
            assert_eq!(ours.out.is_empty(), round % 3 != 0);
            assert_eq!(std::mem::take(&mut ours.plain), data);
            ours.send(&data).unwrap();
            assert_eq!(rustls_reads(&mut theirs, &ours.take()).unwrap(), data);
        }
    }
}

#[test]
fn a_key_that_is_used_up_is_replaced() {
    for (suite, we_serve) in every_way() {
        let (mut ours, mut theirs) = couple(suite, we_serve);
        ours.tls.established().set_limit(5);
        let mut sent = 0;
        let result = loop {
            let data = sample(sent + 1);
            if let Err(error) = ours.send(&data) {
                break Err(error);
            }
            assert_eq!(rustls_reads(&mut theirs, &ours.take()).unwrap(), data);
            sent += 1;
            if sent == 50 {
                break Ok(());
            }
        };
        if suite.tls13().is_some() {
            assert_eq!(result, Ok(()));
            continue;
        }
        // With TLS 1.2 nothing is left but to close.
        assert_eq!(result, Err(Error::EncryptError));
        ours.close();
        rustls_reads(&mut theirs, &ours.take()).unwrap();
        assert!(theirs.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn a_peer_whose_key_is_used_up_is_asked_to_replace_it() {
    for (suite, we_serve) in every_way().filter(|(suite, _)| suite.tls13().is_some()) {
        let (mut ours, mut theirs) = couple(suite, we_serve);
        ours.tls.established().set_limit(5);
        let mut asked = 0;
        for _ in 0..60 {
            ours.feed(&rustls_writes(&mut theirs, b"x")).unwrap();
            asked += usize::from(!ours.out.is_empty());
            rustls_reads(&mut theirs, &ours.take()).unwrap();
        }
        assert!((10..=12).contains(&asked), "{asked}");
        assert_eq!(ours.plain, [b'x'; 60]);
    }
}

#[test]
fn a_changed_bit_at_any_place_is_refused() {
    for suite in suites() {
        let len = {
            let (_, mut theirs) = couple(suite, true);
            rustls_writes(&mut theirs, b"\0secret\0").len()
        };
        for position in 0..len {
            let (mut ours, mut theirs) = couple(suite, true);
            let mut record = rustls_writes(&mut theirs, b"\0secret\0");
            record[position] ^= 1 << (position % 8);
            // A length that grew makes it wait for more, which then does not fit.
            let more = rustls_writes(&mut theirs, &[0; 16_384]);
            let result = ours.feed(&record).and_then(|()| ours.feed(&more)).and_then(|()| ours.feed(&more));
            assert!(result.is_err(), "{suite:?} {position}");
            assert!(ours.plain.is_empty());
            // The alert is one that rustls understands.
            assert!(matches!(rustls_reads(&mut theirs, &ours.take()), Err(Error::AlertReceived(_))));
        }
    }
}

#[test]
fn a_record_cut_short_at_any_place_gives_nothing() {
    for suite in suites() {
        let (mut ours, mut theirs) = couple(suite, true);
        let record = rustls_writes(&mut theirs, b"secret");
        for &byte in &record[..record.len() - 1] {
            ours.feed(&[byte]).unwrap();
            assert!(ours.plain.is_empty());
        }
        ours.feed(&record[record.len() - 1..]).unwrap();
        assert_eq!(ours.plain, b"secret");
        // Nor does it when bytes in the middle are missing.
        let (first, second) = (rustls_writes(&mut theirs, b"one"), rustls_writes(&mut theirs, b"two"));
        assert!(ours.feed(&[&first[..first.len() - 1], &second].concat()).is_err());
    }
}

#[test]
fn a_record_repeated_left_out_or_reordered_is_refused() {
    for suite in suites() {
        for order in [[0, 0, 1], [1, 0, 2], [0, 2, 1]] {
            let (mut ours, mut theirs) = couple(suite, false);
            let records = [b"a", b"b", b"c"].map(|data| rustls_writes(&mut theirs, data));
            let result = order.iter().try_for_each(|&index: &usize| ours.feed(&records[index]));
            assert_eq!(result, Err(Error::DecryptError));
        }
    }
}
