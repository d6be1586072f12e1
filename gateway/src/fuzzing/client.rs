//! Histories of the client's link: dialling, proxies, answers in pieces, loss, time.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::Outcomes;
use super::input::Input;
use crate::core::iphttps::{ClientAction, ClientConfig, ClientError, ClientSession, ClientState, ClientStep, Proxy};
use crate::core::time::Now;
use crate::wire::iphttps_http::RequestParser;

pub fn client(input: &mut Input<'_>, seen: &mut Outcomes) {
    let flags = input.byte();
    let proxy = (flags & 1 != 0)
        .then(|| Proxy { user: (flags & 2 != 0).then(|| "u".to_owned()), password: Some("p".to_owned()) });
    let config = ClientConfig {
        host: if flags & 4 != 0 { "2001:db8::1".to_owned() } else { "da.example.net".to_owned() },
        port: if flags & 8 != 0 { 443 } else { 8443 },
        path: "/IPHTTPS".to_owned(),
        proxy,
        link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
        segments: flags & 16 != 0,
        connect_timeout: Duration::from_secs(10),
    };
    let mut session = ClientSession::new(config);
    let mut now = Now::from_secs(10);
    for _ in 0..120 {
        if input.is_empty() {
            break;
        }
        let jitter = f64::from(input.byte()) / 256.0;
        let mut out = Vec::new();
        match input.choice(9) {
            0 => session.enable(now).expect("allowed in every state"),
            1 => session.disable().expect("allowed in every state"),
            2 => session.redial(now),
            3 => {
                now = now + Duration::from_millis(u64::from(input.word()));
                if let Some(action) = session.handle_timeout(now, jitter) {
                    seen.note("timer", &action);
                    if action == ClientAction::Dial {
                        assert_eq!(session.state(), ClientState::LinkDown);
                        let step = session.connected(&mut out);
                        assert_eq!(out.is_empty(), step != ClientStep::NeedMore);
                    }
                }
            }
            4 => {
                let answer = response(input);
                let step = session.proxy_received(&answer);
                seen.note_result("proxy", &step);
                if let Ok(ClientStep::StartTls { used }) = step {
                    assert!(used <= answer.len());
                }
            }
            5 => {
                if session.tls_established(&mut out).is_ok() {
                    let head = RequestParser::new().push(&out).expect("HTTP").expect("whole").head;
                    assert!(head.is_iphttps());
                }
            }
            6 | 7 => {
                let before = session.state();
                let answer = response(input);
                let step = session.received(now, &answer, &mut out);
                seen.note_result("answer", &step);
                match step {
                    Ok(ClientStep::LinkUp { used, format }) => {
                        seen.note("format", &format);
                        assert!(used <= answer.len() && !out.is_empty());
                        assert_eq!(session.state(), ClientState::LinkUp);
                    }
                    Ok(_) => assert_eq!(session.state(), before),
                    Err(error) => {
                        session.failed(now, error, jitter);
                    }
                }
            }
            _ => {
                let error = input.of(&[
                    ClientError::Reset,
                    ClientError::TimedOut,
                    ClientError::Tls,
                    ClientError::HostNotFound,
                    ClientError::UntrustedServer,
                    ClientError::BadStream,
                ]);
                let wait = session.failed(now, error, jitter);
                assert!(wait <= Duration::from_secs(3 * 3600), "{wait:?}");
            }
        }
        let status = session.status(now);
        seen.note("state", &status.state);
        assert!(!status.text.is_empty());
        // Whatever happened, an enabled link that is not up tries again by itself, or an attempt is under way.
        let alive = matches!(session.state(), ClientState::LinkUp | ClientState::Disabled);
        assert!(alive || session.next_timeout().is_some());
    }
}

fn response(input: &mut Input<'_>) -> Vec<u8> {
    let status: &[u8] = match input.byte() & 7 {
        0 => return input.piece().to_vec(),
        1 => b"HTTP/1.1 407 no\r\n\r\n",
        2 => b"HTTP/1.0 403 no\r\nContent-Length: 3\r\n\r\nno!",
        3 => b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        4 => b"HTTP/1.1 200 OK\r\nPortico-Segments: 1\r\n\r\n",
        5 => b"HTTP/1.1 200 ",
        6 => b"OK\r\nServer: x\r\n\r\n`",
        _ => b"HTTP/1.1 200 OK\r\nServer: Microsoft-HTTPAPI/2.0\r\n\r\n",
    };
    status.to_vec()
}
