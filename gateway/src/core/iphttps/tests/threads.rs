//! Several workers on one link.

use super::*;

#[test]
fn workers_race_for_addresses_and_exactly_one_owns_each() {
    let link = Link::new(LinkConfig { max_sessions: 100, ..config(Authentication::Certificates) }, Now(0)).unwrap();
    let owned: Vec<Vec<Ipv6Addr>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=4u64)
            .map(|worker| {
                let link = &link;
                scope.spawn(move || {
                    let mut sink = Recorder::default();
                    let mut attachments: Vec<_> = (0..10)
                        .map(|index| worker * 100 + index)
                        .map(|id| link.attach(Now(0), SessionId(id), Some(identity(&format!("machine{id}")))).unwrap())
                        .collect();
                    for round in 0..200u16 {
                        for attachment in &mut attachments {
                            let mut buffer = udp(client(round % 50), ip("2001:db8::1"));
                            let end = buffer.len();
                            let mut frame = Frame::new(&mut buffer, 0, end, Offload::default());
                            let outcome = link.from_client(Now(0), attachment, &mut frame, &mut sink);
                            let owner = link.owner(client(round % 50));
                            match outcome {
                                FromClient::ToHost => assert_eq!(owner, Some(attachment.session())),
                                FromClient::Drop(DropReason::AddressLimit) => {}
                                FromClient::Drop(_) => assert_ne!(owner, None),
                                FromClient::Consumed => panic!("not for the link"),
                            }
                        }
                    }
                    attachments.iter().flat_map(Attachment::addresses).collect()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut all: Vec<_> = owned.into_iter().flatten().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), count), (50, 50));
}

#[test]
fn take_over_by_another_worker_stops_the_fast_path() {
    let link = Link::new(config(Authentication::Certificates), Now(0)).unwrap();
    let mut sink = Recorder::default();
    let attach = |id| link.attach(Now(0), SessionId(id), Some(identity("client1"))).unwrap();
    let (mut old, mut new) = (attach(1), attach(2));
    let send = |attachment: &mut Attachment, sink: &mut Recorder| {
        let mut buffer = udp(client(7), ip("2001:db8::1"));
        let end = buffer.len();
        link.from_client(Now(0), attachment, &mut Frame::new(&mut buffer, 0, end, Offload::default()), sink)
    };
    assert_eq!(send(&mut old, &mut sink), FromClient::ToHost);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(send(&mut new, &mut Recorder::default()), FromClient::ToHost));
    });
    assert_eq!(send(&mut old, &mut sink), FromClient::Drop(DropReason::Evicted));
}

#[test]
fn a_thousand_sessions_come_and_go_without_a_trace() {
    let link = Link::new(LinkConfig { max_sessions: 1000, ..config(Authentication::None) }, Now(0)).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let link = &link;
            scope.spawn(move || {
                let mut sink = Recorder::default();
                for index in 0..250 {
                    let id = worker * 1000 + index;
                    let mut attachment = link.attach(Now(0), SessionId(id), None).unwrap();
                    let mut buffer = udp(client(id as u16 + 1), ip("2001:db8::1"));
                    let end = buffer.len();
                    let mut frame = Frame::new(&mut buffer, 0, end, Offload::default());
                    let outcome = link.from_client(Now(0), &mut attachment, &mut frame, &mut sink);
                    assert_eq!(outcome, FromClient::ToHost);
                    link.detach(attachment);
                }
            });
        }
    });
    assert_eq!(link.sessions(), 0);
    assert!((0..4000).all(|host| link.owner(client(host)).is_none()));
}
