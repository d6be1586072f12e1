//! The client's link as a table of transitions, with the state names of \[MS-IPHTTPS\] 3.1.1.
//!
//! The specification's `Enabled` state waits for a reason to connect. Here the administrator's policy is always that
//! reason, so enabling leads straight to `LinkDown`.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use super::{Format, Reconnect};
use crate::core::time::Now;
use crate::wire::iphttps_http::{HttpError, Response, ResponseParser, emit_connect, emit_request};
use crate::wire::ndp::emit_router_solicitation;
use crate::wire::segment_header::SegmentHeader;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientState {
    Disabled,
    /// No connection yet: waiting, dialling, or at the proxy.
    LinkDown,
    /// TLS is up and the request is sent.
    Established,
    /// The response was 2xx; packets flow.
    LinkUp,
}

impl ClientState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::LinkDown => "link_down",
            Self::Established => "established",
            Self::LinkUp => "link_up",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientEvent {
    Enable,
    Disable,
    TlsEstablished,
    Accepted,
    Error,
}

use ClientEvent as E;
use ClientState as S;

/// Every legal step.
pub const TRANSITIONS: &[(ClientState, ClientEvent, ClientState)] = &[
    (S::Disabled, E::Enable, S::LinkDown),
    (S::Disabled, E::Disable, S::Disabled),
    (S::LinkDown, E::Enable, S::LinkDown),
    (S::LinkDown, E::Disable, S::Disabled),
    (S::LinkDown, E::TlsEstablished, S::Established),
    (S::LinkDown, E::Error, S::LinkDown),
    (S::Established, E::Enable, S::Established),
    (S::Established, E::Disable, S::Disabled),
    (S::Established, E::Accepted, S::LinkUp),
    (S::Established, E::Error, S::LinkDown),
    (S::LinkUp, E::Enable, S::LinkUp),
    (S::LinkUp, E::Disable, S::Disabled),
    (S::LinkUp, E::Error, S::LinkDown),
];

/// Why a link is down. Codes are what Windows shows for the same cause, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The name of the server does not exist.
    HostNotFound,
    /// The name exists but has no address.
    NoAddress,
    Refused,
    TimedOut,
    Reset,
    NetworkUnreachable,
    HostUnreachable,
    /// The client has no certificate or no key for it.
    NoCertificate,
    /// The server's certificate does not lead to a trusted root.
    UntrustedServer,
    /// The server's certificate names another host.
    WrongName,
    /// The server's certificate has expired or is not valid yet.
    ServerCertificateExpired,
    /// TLS failed in another way, usually because the server refused the client's certificate.
    Tls,
    /// The server ended the connection instead of answering: no admission, or its client table is full.
    Disconnected,
    /// The server answered with this status.
    Status(u16),
    /// The answer is not HTTP.
    BadResponse,
    /// The proxy wants credentials, or other ones.
    ProxyAuthentication,
    /// The proxy refused with this status.
    ProxyStatus(u16),
    /// The proxy's answer is not HTTP.
    BadProxyResponse,
    /// The stream held something else than IPv6 packets.
    BadStream,
    /// An operation came in a state that does not allow it.
    Illegal(ClientState),
}

impl ClientError {
    /// A number for `portico client status`; 0 means no error.
    pub fn code(self) -> u32 {
        match self {
            Self::HostNotFound => 0x2AF9,
            Self::NoAddress => 0x2AFC,
            Self::Refused => 0x274D,
            Self::TimedOut => 0x274C,
            Self::Reset | Self::Disconnected => 0x2746,
            Self::NetworkUnreachable => 0x2743,
            Self::HostUnreachable => 0x2751,
            Self::NoCertificate => 0x103,
            Self::UntrustedServer => 0x8009_0325,
            Self::WrongName => 0x800B_010F,
            Self::ServerCertificateExpired => 0x800B_0101,
            Self::Tls => 0x8009_0326,
            Self::Status(status) | Self::ProxyStatus(status) => u32::from(status),
            Self::BadResponse | Self::BadProxyResponse | Self::BadStream => 0x2F78,
            Self::ProxyAuthentication => 407,
            Self::Illegal(_) => 0x139F,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNotFound => formatter.write_str("the name of the server was not found"),
            Self::NoAddress => formatter.write_str("the name of the server has no address"),
            Self::Refused => formatter.write_str("the server refused the connection"),
            Self::TimedOut => formatter.write_str("the server did not answer in time"),
            Self::Reset => formatter.write_str("the connection was reset"),
            Self::NetworkUnreachable => formatter.write_str("no network leads to the server"),
            Self::HostUnreachable => formatter.write_str("the server cannot be reached"),
            Self::NoCertificate => formatter.write_str("no usable certificate found"),
            Self::UntrustedServer => formatter.write_str("the server's certificate is not from a trusted authority"),
            Self::WrongName => formatter.write_str("the server's certificate is for another name"),
            Self::ServerCertificateExpired => {
                formatter.write_str("the server's certificate is expired or not valid yet")
            }
            Self::Tls => formatter.write_str("the TLS handshake failed; the server may have refused the certificate"),
            Self::Disconnected => {
                formatter.write_str("the server closed the connection; it does not admit this client or is full")
            }
            Self::Status(status) => write!(formatter, "the server answered with HTTP status {status}"),
            Self::BadResponse => formatter.write_str("the server's answer is not HTTP"),
            Self::ProxyAuthentication => {
                formatter.write_str("the proxy wants a user name and a password, or refused the ones it got")
            }
            Self::ProxyStatus(status) => write!(formatter, "the proxy answered with HTTP status {status}"),
            Self::BadProxyResponse => formatter.write_str("the proxy's answer is not HTTP"),
            Self::BadStream => formatter.write_str("the server sent something else than IPv6 packets"),
            Self::Illegal(state) => {
                write!(formatter, "internal error: the operation is not possible in state {}", state.as_str())
            }
        }
    }
}

impl std::error::Error for ClientError {}

/// An HTTP proxy on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub user: Option<String>,
    pub password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The host of the URL, without brackets when it is an IPv6 address.
    pub host: String,
    pub port: u16,
    pub path: String,
    pub proxy: Option<Proxy>,
    /// The source of router solicitations.
    pub link_local: Ipv6Addr,
    /// Offer segment headers.
    pub segments: bool,
    /// For a whole attempt: name, TCP, proxy, TLS, response.
    pub connect_timeout: Duration,
}

impl ClientConfig {
    fn host_literal(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// `host:port`, for CONNECT.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host_literal(), self.port)
    }

    /// The Host field: the port only when it is not the default (RFC 9110 section 7.2).
    fn host_field(&self) -> String {
        if self.port == 443 { self.host_literal() } else { self.authority() }
    }
}

/// What the shell does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// Read more.
    NeedMore,
    /// Start TLS; `used` bytes of the input were the proxy's.
    StartTls { used: usize },
    /// The link is up; the input behind `used` is the start of the stream.
    LinkUp { used: usize, format: Format },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Resolve the name and connect.
    Dial,
    /// The attempt took too long and was counted as failed: drop the connection.
    Abort(ClientError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    pub state: ClientState,
    /// 0 when there is no error.
    pub code: u32,
    pub text: String,
    /// Time to the next attempt, when one is scheduled.
    pub next_attempt_in: Option<Duration>,
}

#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    state: ClientState,
    reconnect: Reconnect,
    /// End of the attempt that is under way.
    attempt_ends: Option<Now>,
    response: ResponseParser,
    error: Option<ClientError>,
}

impl ClientSession {
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            state: S::Disabled,
            reconnect: Reconnect::new(),
            attempt_ends: None,
            response: ResponseParser::new(),
            error: None,
        }
    }

    pub fn state(&self) -> ClientState {
        self.state
    }

    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    fn step(&mut self, event: ClientEvent) -> Result<(), ClientError> {
        let state = self.state;
        let next = TRANSITIONS.iter().find(|&&(from, on, _)| from == state && on == event);
        self.state = next.ok_or(ClientError::Illegal(state))?.2;
        Ok(())
    }

    /// Wants the link up, from now on.
    ///
    /// # Errors
    /// Never in practice: the table allows it in every state.
    pub fn enable(&mut self, now: Now) -> Result<(), ClientError> {
        if self.state == S::Disabled {
            self.reconnect.redial(now);
        }
        self.step(E::Enable)
    }

    /// Takes the link down for good; drop the connection.
    ///
    /// # Errors
    /// Never in practice: the table allows it in every state.
    pub fn disable(&mut self) -> Result<(), ClientError> {
        self.step(E::Disable)?;
        self.reconnect.stop();
        self.attempt_ends = None;
        self.error = None;
        Ok(())
    }

    /// Dials at once and forgets earlier failures: the network changed, or somebody asked. The shell drops the
    /// connection that is up or being made first. Does nothing when disabled.
    pub fn redial(&mut self, now: Now) {
        if self.state != S::Disabled {
            self.state = S::LinkDown;
            self.attempt_ends = None;
            self.reconnect.redial(now);
        }
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.attempt_ends.or(self.reconnect.due())
    }

    /// Starts a due attempt or ends one that takes too long. `jitter` in 0..1.
    pub fn handle_timeout(&mut self, now: Now, jitter: f64) -> Option<ClientAction> {
        if self.attempt_ends.is_some_and(|end| end <= now) {
            let error = ClientError::TimedOut;
            self.failed(now, error, jitter);
            return Some(ClientAction::Abort(error));
        }
        if self.attempt_ends.is_none() && self.reconnect.due().is_some_and(|due| due <= now) {
            self.reconnect.dialling();
            self.attempt_ends = Some(now + self.config.connect_timeout);
            self.response = ResponseParser::new();
            return Some(ClientAction::Dial);
        }
        None
    }

    /// TCP is up, to the proxy when there is one: then CONNECT is appended to `out` and the answer goes to
    /// [`ClientSession::proxy_received`].
    pub fn connected(&mut self, out: &mut Vec<u8>) -> ClientStep {
        let Some(proxy) = &self.config.proxy else { return ClientStep::StartTls { used: 0 } };
        let credentials = proxy.user.as_deref().map(|user| (user, proxy.password.as_deref().unwrap_or_default()));
        emit_connect(out, &self.config.authority(), credentials);
        ClientStep::NeedMore
    }

    /// Takes the proxy's answer to CONNECT.
    ///
    /// # Errors
    /// `ProxyAuthentication`, `ProxyStatus`, `BadProxyResponse`; report them with [`ClientSession::failed`].
    pub fn proxy_received(&mut self, data: &[u8]) -> Result<ClientStep, ClientError> {
        let Some((response, used)) = self.final_response(data).map_err(|_| ClientError::BadProxyResponse)? else {
            return Ok(ClientStep::NeedMore);
        };
        match response.status {
            200..300 => Ok(ClientStep::StartTls { used }),
            // Some proxies answer 401 to a wrong password and 407 only to none (tinyproxy).
            401 | 407 => Err(ClientError::ProxyAuthentication),
            status => Err(ClientError::ProxyStatus(status)),
        }
    }

    /// TLS is up: appends the request.
    ///
    /// # Errors
    /// `Illegal` when no attempt is under way.
    pub fn tls_established(&mut self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        // The table cannot tell an attempt from waiting for one: both are `LinkDown`.
        if self.attempt_ends.is_none() {
            return Err(ClientError::Illegal(self.state));
        }
        self.step(E::TlsEstablished)?;
        emit_request(out, &self.config.path, &self.config.host_field(), self.config.segments);
        Ok(())
    }

    /// Takes plaintext until the link is up; then a framed Router Solicitation is appended to `out`.
    ///
    /// # Errors
    /// `Status`, `BadResponse`, `Illegal`; report them with [`ClientSession::failed`].
    pub fn received(&mut self, now: Now, data: &[u8], out: &mut Vec<u8>) -> Result<ClientStep, ClientError> {
        if self.state != S::Established {
            return Err(ClientError::Illegal(self.state));
        }
        let Some((response, used)) = self.final_response(data).map_err(|_| ClientError::BadResponse)? else {
            return Ok(ClientStep::NeedMore);
        };
        if !response.is_success() {
            return Err(ClientError::Status(response.status));
        }
        // A server that agrees to what nobody offered is not believed.
        let segments = self.config.segments && response.agrees_segments();
        let format = if segments { Format::Segments } else { Format::Packets };
        self.step(E::Accepted)?;
        self.reconnect.succeeded(now);
        self.attempt_ends = None;
        self.error = None;
        if segments {
            out.extend_from_slice(&[0; SegmentHeader::LEN]);
        }
        out.extend_from_slice(&emit_router_solicitation(self.config.link_local));
        Ok(ClientStep::LinkUp { used, format })
    }

    /// The response behind any interim ones (1xx), and where it ends in `data`.
    fn final_response(&mut self, data: &[u8]) -> Result<Option<(Response, usize)>, HttpError> {
        let mut end = 0;
        while let Some(finished) = self.response.push(&data[end..])? {
            end += finished.used;
            if !(100..200).contains(&finished.head.status) {
                return Ok(Some((finished.head, end)));
            }
        }
        Ok(None)
    }

    /// The attempt failed, or the link that was up is gone: schedules the next one and says how long it waits.
    /// Drop the connection. Does nothing when disabled. `jitter` in 0..1.
    pub fn failed(&mut self, now: Now, error: ClientError, jitter: f64) -> Duration {
        let was_up = self.state == S::LinkUp;
        if self.step(E::Error).is_err() {
            return Duration::ZERO;
        }
        self.attempt_ends = None;
        self.error = Some(error);
        if was_up { self.reconnect.lost(now, jitter) } else { self.reconnect.failed(now, jitter) }
    }

    /// The states and texts that `netsh interface httpstunnel show interfaces` has, for the cases it knows.
    pub fn status(&self, now: Now) -> ClientStatus {
        let text = match (self.state, self.error) {
            (S::Disabled, _) => "IPHTTPS interface disabled".to_owned(),
            (S::LinkUp, _) => "IPHTTPS interface active".to_owned(),
            (_, None) => "Connecting to the IPHTTPS server".to_owned(),
            (_, Some(ClientError::NoCertificate)) => "No usable certificate found".to_owned(),
            (_, Some(error)) => {
                format!("Failed to connect to the IPHTTPS server. Waiting to reconnect: {error}")
            }
        };
        ClientStatus {
            state: self.state,
            code: self.error.map_or(0, ClientError::code),
            text,
            next_attempt_in: self.reconnect.due().map(|due| due.since(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now::from_secs(50);
    const ACCEPT: &[u8] = b"HTTP/1.1 200 OK\r\nServer: Microsoft-HTTPAPI/2.0\r\nDate: x\r\n\r\n";

    fn config() -> ClientConfig {
        ClientConfig {
            host: "da.example.net".into(),
            port: 443,
            path: "/IPHTTPS".into(),
            proxy: None,
            link_local: "fe80::abcd".parse().unwrap(),
            segments: false,
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// A client whose first attempt has begun.
    fn dialling(config: ClientConfig) -> ClientSession {
        let mut client = ClientSession::new(config);
        client.enable(NOW).unwrap();
        assert_eq!(client.handle_timeout(NOW, 0.0), Some(ClientAction::Dial));
        client
    }

    fn up(config: ClientConfig) -> ClientSession {
        let mut client = dialling(config);
        client.tls_established(&mut Vec::new()).unwrap();
        client.received(NOW, ACCEPT, &mut Vec::new()).unwrap();
        client
    }

    #[test]
    fn a_link_comes_up() {
        let mut client = dialling(config());
        let mut out = Vec::new();
        assert_eq!(client.connected(&mut out), ClientStep::StartTls { used: 0 });
        client.tls_established(&mut out).unwrap();
        // << the request
        assert_eq!(
            String::from_utf8(std::mem::take(&mut out)).unwrap(),
            "POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: da.example.net\r\n\r\n"
        );
        assert_eq!(client.state(), S::Established);
        // >> the response, cut anywhere, with a first stream byte
        assert_eq!(client.received(NOW, &ACCEPT[..20], &mut out), Ok(ClientStep::NeedMore));
        let rest = [&ACCEPT[20..], b"\x60"].concat();
        let step = client.received(NOW, &rest, &mut out).unwrap();
        assert_eq!(step, ClientStep::LinkUp { used: ACCEPT.len() - 20, format: Format::Packets });
        // << a Router Solicitation
        assert_eq!((out.len(), out[6], out[7], out[40]), (48, 58, 255, 133));
        let status = client.status(NOW);
        assert_eq!((status.state, status.code, status.text.as_str()), (S::LinkUp, 0, "IPHTTPS interface active"));
        assert_eq!(client.next_timeout(), None);
    }

    #[test]
    fn segments_need_the_server_s_agreement() {
        let mut client = dialling(ClientConfig { segments: true, ..config() });
        let mut out = Vec::new();
        client.tls_established(&mut out).unwrap();
        assert!(out.ends_with(b"\r\nPortico-Segments: 1\r\n\r\n"));
        out.clear();
        let step = client.received(NOW, b"HTTP/1.1 200 OK\r\nPortico-Segments: 1\r\n\r\n", &mut out).unwrap();
        assert!(matches!(step, ClientStep::LinkUp { format: Format::Segments, .. }));
        assert_eq!((out.len(), &out[..5]), (52, &[0, 0, 0, 0, 0x60][..]));
        let mut unasked = dialling(config());
        unasked.tls_established(&mut out).unwrap();
        let step = unasked.received(NOW, b"HTTP/1.1 200 OK\r\nPortico-Segments: 1\r\n\r\n", &mut out).unwrap();
        assert!(matches!(step, ClientStep::LinkUp { format: Format::Packets, .. }));
    }

    #[test]
    fn through_a_proxy() {
        let proxy = Proxy { user: Some("user".into()), password: Some("pass".into()) };
        let mut client = dialling(ClientConfig { proxy: Some(proxy), host: "2001:db8::1".into(), ..config() });
        let mut out = Vec::new();
        assert_eq!(client.connected(&mut out), ClientStep::NeedMore);
        let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(text.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n"));
        let answer = b"HTTP/1.1 200 Connection established\r\n\r\n";
        assert_eq!(client.proxy_received(&answer[..9]), Ok(ClientStep::NeedMore));
        assert_eq!(client.proxy_received(&answer[9..]), Ok(ClientStep::StartTls { used: answer.len() - 9 }));
        client.tls_established(&mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("Host: [2001:db8::1]\r\n"));
    }

    #[test]
    fn a_proxy_s_refusal_has_a_name() {
        for (answer, error) in [
            (&b"HTTP/1.1 407 x\r\n\r\n"[..], ClientError::ProxyAuthentication),
            (b"HTTP/1.1 401 x\r\n\r\n", ClientError::ProxyAuthentication),
            (b"HTTP/1.1 403 x\r\n\r\n", ClientError::ProxyStatus(403)),
            (b"SSH-2.0-x\r\n", ClientError::BadProxyResponse),
        ] {
            let mut client = dialling(ClientConfig { proxy: Some(Proxy { user: None, password: None }), ..config() });
            client.connected(&mut Vec::new());
            assert_eq!(client.proxy_received(answer), Err(error));
        }
    }

    #[test]
    fn failures_follow_the_schedule_and_show_in_the_status() {
        let mut client = dialling(config());
        assert_eq!(client.failed(NOW, ClientError::HostNotFound, 0.0), Duration::from_secs(30));
        let status = client.status(NOW);
        assert_eq!((status.state, status.code), (S::LinkDown, 0x2AF9));
        assert!(status.text.starts_with("Failed to connect to the IPHTTPS server. Waiting to reconnect"));
        assert_eq!(status.next_attempt_in, Some(Duration::from_secs(30)));
        let due = client.next_timeout().unwrap();
        assert_eq!(client.handle_timeout(due, 0.0), Some(ClientAction::Dial));
        let late = due + Duration::from_secs(10);
        assert_eq!(client.handle_timeout(late, 0.0), Some(ClientAction::Abort(ClientError::TimedOut)));
        assert_eq!(client.next_timeout(), Some(late + Duration::from_secs(40)));
    }

    #[test]
    fn a_refused_request_is_a_failure() {
        let mut client = dialling(config());
        client.tls_established(&mut Vec::new()).unwrap();
        let error = client.received(NOW, b"HTTP/1.1 503 x\r\n\r\n", &mut Vec::new()).unwrap_err();
        assert_eq!(error, ClientError::Status(503));
        assert_eq!(client.failed(NOW, error, 0.0), Duration::from_secs(30));
        assert_eq!(client.state(), S::LinkDown);
    }

    #[test]
    fn a_lost_link_and_a_network_change_dial_at_once() {
        let later = NOW + Duration::from_secs(60);
        let mut client = up(config());
        assert_eq!(client.failed(later, ClientError::Reset, 0.5), Duration::ZERO);
        assert_eq!(client.handle_timeout(later, 0.0), Some(ClientAction::Dial));
        client.failed(later, ClientError::NetworkUnreachable, 0.0);
        client.redial(later);
        assert_eq!(client.handle_timeout(later, 0.0), Some(ClientAction::Dial));
    }

    #[test]
    fn disabled_means_disabled() {
        let mut client = up(config());
        client.disable().unwrap();
        client.redial(NOW);
        assert_eq!((client.state(), client.next_timeout()), (S::Disabled, None));
        assert_eq!(client.failed(NOW, ClientError::Reset, 0.0), Duration::ZERO);
        assert_eq!(client.state(), S::Disabled);
        assert_eq!(client.tls_established(&mut Vec::new()), Err(ClientError::Illegal(S::Disabled)));
    }

    #[test]
    fn every_step_that_the_table_does_not_list_is_an_error() {
        for state in [S::Disabled, S::LinkDown, S::Established, S::LinkUp] {
            for event in [E::Enable, E::Disable, E::TlsEstablished, E::Accepted, E::Error] {
                let mut client = ClientSession::new(config());
                client.state = state;
                let listed = TRANSITIONS.iter().find(|&&(from, on, _)| (from, on) == (state, event));
                assert_eq!(client.step(event).is_ok(), listed.is_some());
                assert_eq!(client.state, listed.map_or(state, |&(_, _, to)| to));
            }
        }
    }
}
