//! Whatever the sizes of records and of reads, the stream is the same.

use proptest::prelude::*;
use rustls::{ClientConnection, Connection};

use super::{End, configs, name, rustls_reads, rustls_writes, suites};
use crate::io::tls::Tls;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_records_in_any_pieces_give_the_same_stream(
        suite in 0usize..6,
        writes in prop::collection::vec((0usize..20_000, any::<u8>(), any::<bool>()), 1..12),
        cuts in prop::collection::vec(1usize..30_000, 1..40),
    ) {
        let suite = suites()[suite];
        let (server, client) = configs(suite);
        let mut ours = End::new(Tls::server(server).unwrap());
        let mut theirs = Connection::from(ClientConnection::new(client, name()).unwrap());
        let mut cuts = cuts.into_iter().cycle();
        let mut expected = Vec::new();
        let mut sent_back = Vec::new();
        let mut read_back = Vec::new();
        let mut feed = |ours: &mut End, mut bytes: &[u8]| {
            while !bytes.is_empty() {
                let (piece, rest) = bytes.split_at(bytes.len().min(cuts.next().unwrap()));
                ours.feed(piece).unwrap();
                bytes = rest;
            }
        };
        // The handshake is cut into pieces as well.
        while ours.tls.is_handshaking() {
            feed(&mut ours, &rustls_writes(&mut theirs, b""));
            rustls_reads(&mut theirs, &ours.take()).unwrap();
        }
        for (len, fill, update) in writes {
            if update && suite.tls13().is_some() {
                theirs.refresh_traffic_keys().unwrap();
            }
            let data = vec![fill; len];
            feed(&mut ours, &rustls_writes(&mut theirs, &data));
            expected.extend_from_slice(&data);
            ours.send(&data).unwrap();
            sent_back.extend_from_slice(&data);
            read_back.extend(rustls_reads(&mut theirs, &ours.take()).unwrap());
        }
        prop_assert_eq!(&ours.plain, &expected);
        prop_assert_eq!(&read_back, &sent_back);
        prop_assert!(ours.pending.is_empty());
    }

    #[test]
    fn any_bytes_never_panic(
        suite in 0usize..6,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in 1usize..60,
        established in any::<bool>(),
    ) {
        let mut end = match established {
            true => super::pair(suites()[suite]).1,
            false => End::new(Tls::server(configs(suites()[suite]).0).unwrap()),
        };
        for piece in bytes.chunks(cut) {
            if end.feed(piece).is_err() {
                break;
            }
        }
    }

    /// What is authentic and follows a header that is right reaches the deepest parts.
    #[test]
    fn any_content_of_any_kind_never_panics(
        suite in 0usize..6,
        records in prop::collection::vec((18u8..26, prop::collection::vec(any::<u8>(), 0..40)), 1..20),
        to_client in any::<bool>(),
    ) {
        let (client, server) = super::pair(suites()[suite]);
        let (mut from, mut to) = if to_client { (server, client) } else { (client, server) };
        for (kind, content) in records {
            from.send_as(kind, &content);
            if to.feed(&from.take()).is_err() {
                break;
            }
        }
    }
}
