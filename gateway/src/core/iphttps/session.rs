//! One connection at the server, from its first byte to its end, as a table of transitions.
//!
//! ```text
//! Handshake -> Request -> Joining -> Up            an IP-HTTPS stream
//!                      -> [Body] -> Answering      any other request, handed up
//! every state -> Closed
//! ```
//!
//! The table is all there is: an event that it does not list for a state is a bug in the caller and raises
//! [`IllegalTransition`]. What a peer does wrong is never that; it becomes [`Action::Close`] with a [`CloseReason`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Authentication, CloseReason, Identity};
use crate::core::time::Now;
use crate::wire::iphttps_http::{Finished, HttpError, Request, RequestParser};
use crate::wire::iphttps_http::{emit_accept, emit_continue, emit_response};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// TLS is being set up.
    Handshake,
    /// The request head is expected.
    Request,
    /// The head of a request for another path is there, its body is expected.
    Body,
    /// An IP-HTTPS request is there; the client table decides.
    Joining,
    /// A request was handed up and waits for its answer.
    Answering,
    /// Packets flow.
    Up,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEvent {
    HandshakeDone,
    TunnelRequested,
    BodyExpected,
    RequestComplete,
    Joined,
    Answered,
    Closed,
}

use SessionEvent as E;
use SessionState as S;

/// Every legal step.
pub const TRANSITIONS: &[(SessionState, SessionEvent, SessionState)] = &[
    (S::Handshake, E::HandshakeDone, S::Request),
    (S::Handshake, E::Closed, S::Closed),
    (S::Request, E::TunnelRequested, S::Joining),
    (S::Request, E::BodyExpected, S::Body),
    (S::Request, E::RequestComplete, S::Answering),
    (S::Request, E::Closed, S::Closed),
    (S::Body, E::RequestComplete, S::Answering),
    (S::Body, E::Closed, S::Closed),
    (S::Joining, E::Joined, S::Up),
    (S::Joining, E::Closed, S::Closed),
    (S::Answering, E::Answered, S::Closed),
    (S::Answering, E::Closed, S::Closed),
    (S::Up, E::Closed, S::Closed),
    (S::Closed, E::Closed, S::Closed),
];

/// An event that its state does not allow: a bug in the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalTransition {
    pub state: SessionState,
    pub event: SessionEvent,
}

impl fmt::Display for IllegalTransition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "session event {:?} is not allowed in state {:?}", self.event, self.state)
    }
}

impl std::error::Error for IllegalTransition {}

/// What all sessions of a listener share.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    pub authentication: Authentication,
    pub handshake_timeout: Duration,
    /// From the end of the handshake to the last byte of the request, however slowly it arrives.
    pub request_timeout: Duration,
    /// How long a request that was handed up may wait for its answer.
    pub answer_timeout: Duration,
    /// The paths that are handed up; others get 404.
    pub paths: Vec<String>,
    /// The longest body of a request that is handed up, in bytes.
    pub max_body: usize,
    /// Whether to agree to segment headers.
    pub segments: bool,
}

/// What the shell found in the TLS session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// No client certificate.
    Anonymous,
    Admitted(Arc<Identity>),
    /// A certificate that is revoked or otherwise refused.
    Refused,
}

/// A request for the management side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandUp {
    pub method: String,
    pub path: String,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// What the shell does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read more.
    NeedMore,
    /// Add the session to the link, then call [`Session::up`] or [`Session::close`].
    Tunnel {
        /// Use segment headers in both directions.
        segments: bool,
    },
    /// Have it answered, then call [`Session::answer`].
    Request(HandUp),
    /// Send what was appended to `out`, if anything, and disconnect.
    Close(CloseReason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the input that were used; the rest is the start of the stream.
    pub used: usize,
    pub action: Action,
}

#[derive(Debug)]
enum Progress {
    Idle,
    Head(Box<RequestParser>),
    Body { request: Box<HandUp>, missing: usize },
}

#[derive(Debug)]
pub struct Session {
    state: SessionState,
    deadline: Option<Now>,
    segments: bool,
    closed: Option<CloseReason>,
    identity: Option<Arc<Identity>>,
    progress: Progress,
}

impl Session {
    /// A connection that was just accepted.
    pub fn new(now: Now, config: &SessionConfig) -> Self {
        Self {
            state: S::Handshake,
            deadline: Some(now + config.handshake_timeout),
            segments: false,
            closed: None,
            identity: None,
            progress: Progress::Idle,
        }
    }

    pub fn state(&self) -> SessionState {
        self.state
    }

    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Why the session is closed.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closed
    }

    fn step(&mut self, event: SessionEvent) -> Result<(), IllegalTransition> {
        let state = self.state;
        let next = TRANSITIONS.iter().find(|&&(from, on, _)| from == state && on == event);
        let &(_, _, next) = next.ok_or(IllegalTransition { state, event })?;
        self.state = next;
        Ok(())
    }

    /// TLS is up. `Refused` closes the session.
    ///
    /// # Errors
    /// When called twice.
    pub fn handshake_done(
        &mut self,
        now: Now,
        config: &SessionConfig,
        admission: Admission,
    ) -> Result<(), IllegalTransition> {
        self.step(E::HandshakeDone)?;
        self.deadline = Some(now + config.request_timeout);
        self.progress = Progress::Head(Box::default());
        match admission {
            Admission::Anonymous => {}
            Admission::Admitted(identity) => self.identity = Some(identity),
            Admission::Refused => self.close(CloseReason::NotAdmitted),
        }
        Ok(())
    }

    /// Takes plaintext until the session is up. Responses are appended to `out`; `unix` is the time for their Date, in
    /// seconds since the epoch.
    ///
    /// # Errors
    /// When the session does not expect plaintext: before the handshake is done, or once it is up (then the bytes
    /// belong to a deframer). A session that waits for an answer ignores what arrives.
    pub fn receive(
        &mut self,
        now: Now,
        config: &SessionConfig,
        data: &[u8],
        unix: u64,
        out: &mut Vec<u8>,
    ) -> Result<Received, IllegalTransition> {
        match self.state {
            S::Request => self.receive_head(now, config, data, unix, out),
            S::Body => self.receive_body(now, config, data),
            S::Answering => Ok(Received { used: data.len(), action: Action::NeedMore }),
            S::Closed => {
                let reason = self.closed.unwrap_or(CloseReason::PeerClosed);
                Ok(Received { used: data.len(), action: Action::Close(reason) })
            }
            state => Err(IllegalTransition { state, event: E::RequestComplete }),
        }
    }

    fn receive_head(
        &mut self,
        now: Now,
        config: &SessionConfig,
        data: &[u8],
        unix: u64,
        out: &mut Vec<u8>,
    ) -> Result<Received, IllegalTransition> {
        let Progress::Head(parser) = &mut self.progress else {
            return Err(IllegalTransition { state: self.state, event: E::HandshakeDone });
        };
        let Finished { head, used } = match parser.push(data) {
            Ok(Some(finished)) => finished,
            Ok(None) => return Ok(Received { used: data.len(), action: Action::NeedMore }),
            Err(error) => return Ok(self.refuse(error, data.len(), unix, out)),
        };
        self.progress = Progress::Idle;
        if head.is_iphttps() {
            // Nothing is sent to a peer that may not have a tunnel: \[MS-IPHTTPS\] 3.2.5.1 knows 200 or a disconnect.
            if config.authentication == Authentication::Certificates && self.identity.is_none() {
                self.close(CloseReason::NoIdentity);
                return Ok(Received { used, action: Action::Close(CloseReason::NoIdentity) });
            }
            self.step(E::TunnelRequested)?;
            self.segments = config.segments && head.offers_segments();
            return Ok(Received { used, action: Action::Tunnel { segments: self.segments } });
        }
        if !config.paths.iter().any(|path| path == head.path()) {
            emit_response(out, 404, "text/plain", b"not found\n", unix);
            self.close(CloseReason::NotFound);
            return Ok(Received { used, action: Action::Close(CloseReason::NotFound) });
        }
        let missing = match head.body_length(config.max_body) {
            Ok(length) => length,
            Err(error) => return Ok(self.refuse(error, used, unix, out)),
        };
        if head.expects_continue() && missing > 0 {
            emit_continue(out);
        }
        let request = Box::new(hand_up(&head, missing));
        if missing == 0 {
            return self.complete(now, config, *request, used);
        }
        self.step(E::BodyExpected)?;
        self.progress = Progress::Body { request, missing };
        let Received { used: of_body, action } = self.receive_body(now, config, &data[used..])?;
        Ok(Received { used: used + of_body, action })
    }

    fn receive_body(&mut self, now: Now, config: &SessionConfig, data: &[u8]) -> Result<Received, IllegalTransition> {
        let Progress::Body { request, missing } = &mut self.progress else {
            return Err(IllegalTransition { state: self.state, event: E::BodyExpected });
        };
        let used = data.len().min(*missing);
        request.body.extend_from_slice(&data[..used]);
        *missing -= used;
        if *missing > 0 {
            return Ok(Received { used, action: Action::NeedMore });
        }
        let request = std::mem::replace(request, Box::new(HandUp::empty()));
        self.progress = Progress::Idle;
        self.complete(now, config, *request, used)
    }

    fn complete(
        &mut self,
        now: Now,
        config: &SessionConfig,
        request: HandUp,
        used: usize,
    ) -> Result<Received, IllegalTransition> {
        self.step(E::RequestComplete)?;
        self.deadline = Some(now + config.answer_timeout);
        Ok(Received { used, action: Action::Request(request) })
    }

    fn refuse(&mut self, error: HttpError, used: usize, unix: u64, out: &mut Vec<u8>) -> Received {
        emit_response(out, error.status_hint(), "text/plain", format!("{error}\n").as_bytes(), unix);
        self.close(CloseReason::BadRequest);
        Received { used, action: Action::Close(CloseReason::BadRequest) }
    }

    /// The link took the session: appends the 200 response. From now on plaintext belongs to a deframer.
    ///
    /// # Errors
    /// When no tunnel was requested.
    pub fn up(&mut self, unix: u64, out: &mut Vec<u8>) -> Result<(), IllegalTransition> {
        self.step(E::Joined)?;
        self.deadline = None;
        emit_accept(out, unix, self.segments);
        Ok(())
    }

    /// Appends the answer to a request that was handed up; disconnect once it is sent.
    ///
    /// # Errors
    /// When no request waits.
    pub fn answer(
        &mut self,
        status: u16,
        content_type: &str,
        body: &[u8],
        unix: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), IllegalTransition> {
        self.step(E::Answered)?;
        self.finish(CloseReason::Answered);
        emit_response(out, status, content_type, body, unix);
        Ok(())
    }

    /// Ends the session; the first reason stays.
    pub fn close(&mut self, reason: CloseReason) {
        // The table allows this event in every state.
        if self.step(E::Closed).is_ok() {
            self.finish(reason);
        }
    }

    fn finish(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
        self.deadline = None;
        self.progress = Progress::Idle;
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.deadline
    }

    /// Closes the session when its deadline has passed and says why; disconnect then.
    pub fn handle_timeout(&mut self, now: Now) -> Option<CloseReason> {
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        if !due {
            return None;
        }
        let reason = match self.state {
            S::Handshake => CloseReason::HandshakeTimeout,
            S::Answering => CloseReason::AnswerTimeout,
            _ => CloseReason::RequestTimeout,
        };
        self.close(reason);
        Some(reason)
    }
}

impl HandUp {
    fn empty() -> Self {
        Self { method: String::new(), path: String::new(), content_type: String::new(), body: Vec::new() }
    }
}

fn hand_up(head: &Request, length: usize) -> HandUp {
    HandUp {
        method: head.method.clone(),
        path: head.path().to_owned(),
        content_type: String::from_utf8_lossy(head.field("Content-Type").unwrap_or_default()).into_owned(),
        body: Vec::with_capacity(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now::from_secs(1000);
    const POST: &[u8] =
        b"POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: da.example.net\r\n\r\n";

    fn config(authentication: Authentication) -> SessionConfig {
        SessionConfig {
            authentication,
            handshake_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(20),
            paths: vec!["/portico/v1/enrol".to_owned()],
            max_body: 64,
            segments: true,
        }
    }

    fn identity() -> Arc<Identity> {
        Identity { serial: "1f".into(), issuer_sha256: [7; 32], subject: "client1".into(), not_after: 0 }.into()
    }

    /// A session with its configuration: `>>` what arrives, `<<` what is sent.
    struct Dialogue {
        config: SessionConfig,
        session: Session,
        out: Vec<u8>,
    }

    impl Dialogue {
        fn new(authentication: Authentication, admission: Admission) -> Self {
            let config = config(authentication);
            let mut session = Session::new(NOW, &config);
            session.handshake_done(NOW, &config, admission).unwrap();
            Self { config, session, out: Vec::new() }
        }

        fn receive(&mut self, data: &[u8]) -> Received {
            self.session.receive(NOW, &self.config, data, 784_111_777, &mut self.out).unwrap()
        }

        fn sent(&mut self) -> String {
            String::from_utf8(std::mem::take(&mut self.out)).unwrap()
        }
    }

    #[test]
    fn a_tunnel_comes_up() {
        let mut dialogue = Dialogue::new(Authentication::Certificates, Admission::Admitted(identity()));
        // >> the request and the first bytes of the stream
        let bytes = [POST, b"\x60"].concat();
        let received = dialogue.receive(&bytes);
        assert_eq!(received, Received { used: POST.len(), action: Action::Tunnel { segments: false } });
        assert_eq!(dialogue.sent(), "");
        dialogue.session.up(784_111_777, &mut dialogue.out).unwrap();
        // << 200 without length
        assert_eq!(
            dialogue.sent(),
            "HTTP/1.1 200 OK\r\nServer: Microsoft-HTTPAPI/2.0\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"
        );
        assert_eq!((dialogue.session.state(), dialogue.session.next_timeout()), (S::Up, None));
    }

    #[test]
    fn segments_are_agreed_only_when_both_want_them() {
        let post = b"POST /IPHTTPS HTTP/1.1\r\nPortico-Segments: 1\r\n\r\n";
        let mut dialogue = Dialogue::new(Authentication::None, Admission::Anonymous);
        assert_eq!(dialogue.receive(post).action, Action::Tunnel { segments: true });
        dialogue.session.up(0, &mut dialogue.out).unwrap();
        assert!(dialogue.sent().ends_with("\r\nPortico-Segments: 1\r\n\r\n"));
        let mut other = Dialogue::new(Authentication::None, Admission::Anonymous);
        other.config.segments = false;
        assert_eq!(other.receive(post).action, Action::Tunnel { segments: false });
    }

    #[test]
    fn without_identity_nothing_is_sent() {
        let mut dialogue = Dialogue::new(Authentication::Certificates, Admission::Anonymous);
        assert_eq!(dialogue.receive(POST).action, Action::Close(CloseReason::NoIdentity));
        assert_eq!((dialogue.sent().as_str(), dialogue.session.state()), ("", S::Closed));
        let mut refused = Dialogue::new(Authentication::Certificates, Admission::Refused);
        assert_eq!(refused.receive(POST).action, Action::Close(CloseReason::NotAdmitted));
        assert_eq!(refused.sent(), "");
    }

    #[test]
    fn table_full_is_a_plain_disconnect() {
        let mut dialogue = Dialogue::new(Authentication::None, Admission::Anonymous);
        dialogue.receive(POST);
        dialogue.session.close(CloseReason::TableFull);
        assert_eq!(dialogue.sent(), "");
        assert_eq!(dialogue.session.close_reason(), Some(CloseReason::TableFull));
    }

    #[test]
    fn other_requests_are_handed_up_byte_by_byte() {
        let mut dialogue = Dialogue::new(Authentication::Certificates, Admission::Anonymous);
        let request =
            b"POST /portico/v1/enrol?a=b HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        let (last, first) = request.split_last().unwrap();
        for &byte in first {
            assert_eq!(dialogue.receive(&[byte]).action, Action::NeedMore);
        }
        let Action::Request(request) = dialogue.receive(&[*last]).action else { panic!("handed up") };
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/portico/v1/enrol"));
        assert_eq!((request.content_type.as_str(), request.body.as_slice()), ("application/json", &b"{}"[..]));
        assert_eq!(dialogue.receive(b"more").action, Action::NeedMore);
        dialogue.session.answer(200, "application/json", b"[]", 0, &mut dialogue.out).unwrap();
        let sent = dialogue.sent();
        assert!(sent.starts_with("HTTP/1.1 200 OK\r\n") && sent.ends_with("Connection: close\r\n\r\n[]"), "{sent}");
        assert_eq!(dialogue.session.state(), S::Closed);
    }

    #[test]
    fn a_client_that_waits_for_continue_gets_it() {
        let mut dialogue = Dialogue::new(Authentication::None, Admission::Anonymous);
        dialogue.receive(b"POST /portico/v1/enrol HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
        assert_eq!(dialogue.sent(), "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(matches!(dialogue.receive(b"x").action, Action::Request(_)));
    }

    #[test]
    fn wrong_requests_get_an_answer_and_a_close() {
        for (request, status, reason) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404", CloseReason::NotFound),
            (b"SSTP_DUPLEX_POST /x HTTP/1.1\r\n\r\n", "404", CloseReason::NotFound),
            (b"\x16\x03\x01\x02", "400", CloseReason::BadRequest),
            (b"POST /portico/v1/enrol HTTP/1.1\r\nContent-Length: 65\r\n\r\n", "413", CloseReason::BadRequest),
            (b"POST /portico/v1/enrol HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "411", CloseReason::BadRequest),
        ] {
            let mut dialogue = Dialogue::new(Authentication::None, Admission::Anonymous);
            assert_eq!(dialogue.receive(request).action, Action::Close(reason));
            assert!(dialogue.sent().starts_with(&format!("HTTP/1.1 {status} ")));
        }
    }

    #[test]
    fn deadlines() {
        let config = config(Authentication::None);
        let mut session = Session::new(NOW, &config);
        assert_eq!(session.handle_timeout(NOW + Duration::from_secs(14)), None);
        assert_eq!(session.handle_timeout(NOW + Duration::from_secs(15)), Some(CloseReason::HandshakeTimeout));
        let mut slow = Dialogue::new(Authentication::None, Admission::Anonymous);
        slow.receive(b"POST /IPH");
        assert_eq!(slow.session.handle_timeout(NOW + Duration::from_secs(10)), Some(CloseReason::RequestTimeout));
        let mut waiting = Dialogue::new(Authentication::None, Admission::Anonymous);
        waiting.receive(b"GET /portico/v1/enrol HTTP/1.1\r\n\r\n");
        assert_eq!(waiting.session.handle_timeout(NOW + Duration::from_secs(20)), Some(CloseReason::AnswerTimeout));
    }

    #[test]
    fn every_step_that_the_table_does_not_list_is_an_error() {
        let states = [S::Handshake, S::Request, S::Body, S::Joining, S::Answering, S::Up, S::Closed];
        let events = [
            E::HandshakeDone,
            E::TunnelRequested,
            E::BodyExpected,
            E::RequestComplete,
            E::Joined,
            E::Answered,
            E::Closed,
        ];
        for state in states {
            for event in events {
                let mut session = Session::new(NOW, &config(Authentication::None));
                session.state = state;
                let listed = TRANSITIONS.iter().find(|&&(from, on, _)| (from, on) == (state, event));
                assert_eq!(session.step(event).is_ok(), listed.is_some());
                assert_eq!(session.state, listed.map_or(state, |&(_, _, to)| to));
            }
            assert!(TRANSITIONS.iter().any(|&(from, on, to)| (from, on, to) == (state, E::Closed, S::Closed)));
        }
        let mut session = Session::new(NOW, &config(Authentication::None));
        assert_eq!(session.up(0, &mut Vec::new()), Err(IllegalTransition { state: S::Handshake, event: E::Joined }));
    }
}
