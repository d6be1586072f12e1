//! The HTTP/1.1 heads around an IP-HTTPS stream: [MS-IPHTTPS] 2.1 and 4.1, RFC 9112, and CONNECT (RFC 9110 9.3.6).
//!
//! A general HTTP stack is of no use here. The request announces 2^64-1 body bytes that never end and the response has
//! neither a length nor chunks; several stacks refuse one or the other. So heads are parsed (by `httparse`, from bytes
//! that may arrive one at a time) and bodies are left to the caller.

use std::fmt;

use httparse::{EMPTY_HEADER, Status};

/// The longest request or response head that is accepted, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;

/// The most header fields in one head.
pub const MAX_FIELDS: usize = 64;

/// The body length an IP-HTTPS client announces (\[MS-IPHTTPS\] 3.1.5.2): 2^64-1.
pub const ENDLESS: &str = "18446744073709551615";

/// The path clients really use; the specification's own example has [`SPECIFICATION_PATH`].
pub const PATH: &str = "/IPHTTPS";

/// The path in the example of \[MS-IPHTTPS\] 4.1.
pub const SPECIFICATION_PATH: &str = "/IPTLS";

/// What existing tools look for to tell a DirectAccess server.
pub const SERVER: &str = "Microsoft-HTTPAPI/2.0";

/// The field with which two Portico ends agree on segment headers.
pub const SEGMENTS_FIELD: &str = "Portico-Segments";

/// How a peer can misuse HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The head is longer than [`MAX_HEAD`] or has more than [`MAX_FIELDS`] fields.
    HeadTooLong,
    /// The bytes are not an HTTP/1.0 or HTTP/1.1 head.
    NotHttp,
    /// Content-Length is not a number, or two of them differ.
    BadLength,
    /// A body with a transfer coding, which no request handled here has.
    TransferCoding,
    /// The body is longer than the caller allows.
    BodyTooLong,
}

impl HttpError {
    /// The status code that tells the peer (only for requests that are not IP-HTTPS).
    pub fn status_hint(self) -> u16 {
        match self {
            Self::HeadTooLong => 431,
            Self::NotHttp | Self::BadLength => 400,
            Self::TransferCoding => 411,
            Self::BodyTooLong => 413,
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HeadTooLong => "the HTTP head is too long",
            Self::NotHttp => "the bytes are not HTTP/1.0 or HTTP/1.1",
            Self::BadLength => "Content-Length is not one number",
            Self::TransferCoding => "the request body has a transfer coding",
            Self::BodyTooLong => "the request body is too long",
        })
    }
}

impl std::error::Error for HttpError {}

/// A parsed request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// The request target as sent, including a query.
    pub target: String,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Request {
    /// The path of the target: without scheme, authority and query.
    pub fn path(&self) -> &str {
        let target = self.target.as_str();
        let target = match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
            _ => target,
        };
        target.split(['?', '#']).next().unwrap_or(target)
    }

    /// Whether this asks for an IP-HTTPS stream: POST to `/IPHTTPS` or `/IPTLS` in any case. Content-Length is not
    /// looked at, whatever it says.
    pub fn is_iphttps(&self) -> bool {
        let path = self.path();
        self.method == "POST" && (path.eq_ignore_ascii_case(PATH) || path.eq_ignore_ascii_case(SPECIFICATION_PATH))
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        find_field(&self.fields, name)
    }

    /// Whether the client offers segment headers.
    pub fn offers_segments(&self) -> bool {
        self.field(SEGMENTS_FIELD) == Some(b"1".as_slice())
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.minor_version > 0 && self.field("Expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
    }

    /// The length of a body delimited by Content-Length, for requests that are not IP-HTTPS; absent means 0.
    ///
    /// # Errors
    /// `TransferCoding`, `BadLength`, or `BodyTooLong` when it exceeds `max`.
    pub fn body_length(&self, max: usize) -> Result<usize, HttpError> {
        if self.field("Transfer-Encoding").is_some() {
            return Err(HttpError::TransferCoding);
        }
        let mut length: Option<&[u8]> = None;
        for (name, value) in &self.fields {
            if name.eq_ignore_ascii_case("Content-Length") {
                if value.is_empty() || !value.iter().all(u8::is_ascii_digit) || length.is_some_and(|one| one != value) {
                    return Err(HttpError::BadLength);
                }
                length = Some(value);
            }
        }
        let Some(digits) = length else { return Ok(0) };
        // Digits only, so a failure to parse is a number beyond usize.
        let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
        length.filter(|&length| length <= max).ok_or(HttpError::BodyTooLong)
    }
}

/// A parsed response head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub minor_version: u8,
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Response {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        find_field(&self.fields, name)
    }

    /// Whether the server agreed to segment headers.
    pub fn agrees_segments(&self) -> bool {
        self.field(SEGMENTS_FIELD) == Some(b"1".as_slice())
    }
}

fn find_field<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
}

fn own_fields(fields: &[httparse::Header<'_>]) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_owned(), field.value.trim_ascii().to_vec())).collect()
}

fn parse_error(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::HeadTooLong,
        _ => HttpError::NotHttp,
    }
}

/// A finished head and how many bytes of the last `push` belonged to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished<T> {
    pub head: T,
    /// Bytes of the slice given to the last `push` that were part of the head; the rest is body.
    pub used: usize,
}

/// Collects a request head from pieces of any size.
#[derive(Debug, Default)]
pub struct RequestParser {
    head: HeadBuffer,
}

impl RequestParser {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; `None` asks for more. After `Some` or an error the parser is empty again.
    ///
    /// # Errors
    /// `HeadTooLong` or `NotHttp`.
    pub fn push(&mut self, data: &[u8]) -> Result<Option<Finished<Request>>, HttpError> {
        self.head.push(data, |bytes| {
            let mut fields = [EMPTY_HEADER; MAX_FIELDS];
            let mut request = httparse::Request::new(&mut fields);
            match request.parse(bytes).map_err(parse_error)? {
                Status::Partial => Ok(None),
                Status::Complete(length) => {
                    let (Some(method), Some(target), Some(minor_version)) =
                        (request.method, request.path, request.version)
                    else {
                        return Err(HttpError::NotHttp);
                    };
                    let request = Request {
                        method: method.to_owned(),
                        target: target.to_owned(),
                        minor_version,
                        fields: own_fields(request.headers),
                    };
                    Ok(Some((request, length)))
                }
            }
        })
    }
}

/// Collects a response head from pieces of any size.
#[derive(Debug, Default)]
pub struct ResponseParser {
    head: HeadBuffer,
}

impl ResponseParser {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; `None` asks for more. After `Some` or an error the parser is empty again.
    ///
    /// # Errors
    /// `HeadTooLong` or `NotHttp`.
    pub fn push(&mut self, data: &[u8]) -> Result<Option<Finished<Response>>, HttpError> {
        self.head.push(data, |bytes| {
            let mut fields = [EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(bytes).map_err(parse_error)? {
                Status::Partial => Ok(None),
                Status::Complete(length) => {
                    let (Some(status), Some(minor_version)) = (response.code, response.version) else {
                        return Err(HttpError::NotHttp);
                    };
                    Ok(Some((Response { status, minor_version, fields: own_fields(response.headers) }, length)))
                }
            }
        })
    }
}

/// The bytes of an unfinished head. `httparse` starts over with each call, so the buffer is parsed only when a line
/// ends: a peer that sends single bytes costs at most one pass per line.
#[derive(Debug, Default)]
struct HeadBuffer {
    bytes: Vec<u8>,
}

impl HeadBuffer {
    fn push<T>(
        &mut self,
        data: &[u8],
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, HttpError>,
    ) -> Result<Option<Finished<T>>, HttpError> {
        let before = self.bytes.len();
        let room = MAX_HEAD - before;
        let taken = &data[..data.len().min(room)];
        self.bytes.extend_from_slice(taken);
        // The first bytes are checked at once so that garbage without line ends is refused early.
        let worth_parsing = before < 16 || taken.contains(&b'\n') || taken.len() == room;
        let outcome = if worth_parsing { parse(&self.bytes) } else { Ok(None) };
        match outcome {
            Ok(Some((head, length))) => {
                self.bytes = Vec::new();
                Ok(Some(Finished { head, used: length.saturating_sub(before) }))
            }
            Ok(None) if self.bytes.len() >= MAX_HEAD => {
                self.bytes = Vec::new();
                Err(HttpError::HeadTooLong)
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.bytes = Vec::new();
                Err(error)
            }
        }
    }
}

/// Appends the client's request, fields in the order of \[MS-IPHTTPS\] 4.1.
pub fn emit_request(out: &mut Vec<u8>, path: &str, host: &str, segments: bool) {
    out.extend_from_slice(format!("POST {path} HTTP/1.1\r\nContent-Length: {ENDLESS}\r\nHost: {host}\r\n").as_bytes());
    emit_segments(out, segments);
    out.extend_from_slice(b"\r\n");
}

/// Appends the server's answer to an IP-HTTPS request (\[MS-IPHTTPS\] 3.2.5.1): Server and Date, and neither a length
/// nor a transfer coding, since the body runs until the connection closes. `unix` is in seconds since the epoch.
pub fn emit_accept(out: &mut Vec<u8>, unix: u64, segments: bool) {
    out.extend_from_slice(format!("HTTP/1.1 200 OK\r\nServer: {SERVER}\r\nDate: {}\r\n", ImfDate(unix)).as_bytes());
    emit_segments(out, segments);
    out.extend_from_slice(b"\r\n");
}

fn emit_segments(out: &mut Vec<u8>, segments: bool) {
    if segments {
        out.extend_from_slice(format!("{SEGMENTS_FIELD}: 1\r\n").as_bytes());
    }
}

/// Appends an ordinary response with a body, after which the connection closes.
pub fn emit_response(out: &mut Vec<u8>, status: u16, content_type: &str, body: &[u8], unix: u64) {
    let head = format!(
        "HTTP/1.1 {status} {}\r\nServer: {SERVER}\r\nDate: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        reason_phrase(status),
        ImfDate(unix),
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

/// Appends the interim response a client with `Expect: 100-continue` waits for.
pub fn emit_continue(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Appends a CONNECT request for `host:port`, with basic authentication (RFC 7617) when credentials are given.
pub fn emit_connect(out: &mut Vec<u8>, authority: &str, credentials: Option<(&str, &str)>) {
    out.extend_from_slice(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").as_bytes());
    if let Some((user, password)) = credentials {
        let encoded = base64(format!("{user}:{password}").as_bytes());
        out.extend_from_slice(format!("Proxy-Authorization: Basic {encoded}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The standard alphabet with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let sextet = (word >> (18 - 6 * index)) & 63;
            text.push(if index <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        // The phrase is optional text that clients ignore (RFC 9112 section 4).
        _ => "Status",
    }
}

/// A time in seconds since the epoch, shown as an IMF-fixdate (RFC 9110 section 5.6.7).
#[derive(Clone, Copy, Debug)]
pub struct ImfDate(pub u64);

impl fmt::Display for ImfDate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let days = self.0 / 86_400;
        let (hour, minute, second) = (self.0 / 3_600 % 24, self.0 / 60 % 60, self.0 % 60);
        // Days since 0000-03-01 in 400-year eras: leap days fall at the end of the counted year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = (shifted_month + 2) % 12;
        let year = era * 400 + year_of_era + u64::from(month < 2);
        write!(
            formatter,
            "{}, {day:02} {} {year:04} {hour:02}:{minute:02}:{second:02} GMT",
            DAYS[(days % 7) as usize],
            MONTHS[month as usize]
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPECIFICATION_REQUEST: &[u8] =
        b"POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: da.example.net\r\n\r\n";

    fn parse(bytes: &[u8]) -> Result<Option<Finished<Request>>, HttpError> {
        RequestParser::new().push(bytes)
    }

    fn request(head: &str) -> Request {
        parse(head.as_bytes()).unwrap().unwrap().head
    }

    #[test]
    fn the_request_of_the_specification_byte_for_byte() {
        let mut out = Vec::new();
        emit_request(&mut out, PATH, "da.example.net", false);
        assert_eq!(out, SPECIFICATION_REQUEST);
    }

    #[test]
    fn the_response_of_the_specification_byte_for_byte() {
        let mut out = Vec::new();
        emit_accept(&mut out, 1_218_340_312, false);
        assert_eq!(
            out,
            b"HTTP/1.1 200 OK\r\nServer: Microsoft-HTTPAPI/2.0\r\nDate: Sun, 10 Aug 2008 03:51:52 GMT\r\n\r\n"
        );
    }

    #[test]
    fn one_byte_at_a_time_headers() {
        let mut parser = RequestParser::new();
        let (last, first) = SPECIFICATION_REQUEST.split_last().unwrap();
        for &byte in first {
            assert_eq!(parser.push(&[byte]), Ok(None));
        }
        let finished = parser.push(&[*last]).unwrap().unwrap();
        assert!(finished.head.is_iphttps());
        assert_eq!(finished.used, 1);
    }

    #[test]
    fn body_bytes_behind_the_head_stay_with_the_caller() {
        let mut bytes = SPECIFICATION_REQUEST.to_vec();
        bytes.extend_from_slice(b"\x60\0\0\0");
        assert_eq!(parse(&bytes).unwrap().unwrap().used, SPECIFICATION_REQUEST.len());
    }

    #[test]
    fn any_content_length_opens_a_stream() {
        for length in ["", "Content-Length: 0\r\n", "Content-Length: 9223372036854775808\r\n", "Content-Length: x\r\n"]
        {
            let request = request(&format!("POST /iphttps HTTP/1.1\r\nHost: a\r\n{length}X-Other: 1\r\n\r\n"));
            assert!(request.is_iphttps(), "{length}");
        }
    }

    #[test]
    fn paths_match_in_any_case_and_form() {
        for target in ["/IPHTTPS", "/IPHTTPs", "/iphttps?x=1", "/iptls", "https://da.example.net:443/IPHTTPS"] {
            assert!(request(&format!("POST {target} HTTP/1.0\r\n\r\n")).is_iphttps(), "{target}");
        }
        for line in ["GET /IPHTTPS", "POST /IPHTTPS/x", "POST /", "post /IPHTTPS", "POST http://host"] {
            assert!(!request(&format!("{line} HTTP/1.1\r\n\r\n")).is_iphttps(), "{line}");
        }
    }

    #[test]
    fn body_lengths() {
        let length = |fields: &str| request(&format!("POST /x HTTP/1.1\r\n{fields}\r\n")).body_length(100);
        assert_eq!(length(""), Ok(0));
        assert_eq!(length("Content-Length: 100\r\n"), Ok(100));
        assert_eq!(length("Content-Length: 7\r\ncontent-length: 7\r\n"), Ok(7));
        assert_eq!(length("Content-Length: 101\r\n"), Err(HttpError::BodyTooLong));
        assert_eq!(length("Content-Length: 18446744073709551616\r\n"), Err(HttpError::BodyTooLong));
        assert_eq!(length("Content-Length: 7\r\nContent-Length: 8\r\n"), Err(HttpError::BadLength));
        assert_eq!(length("Content-Length: +7\r\n"), Err(HttpError::BadLength));
        assert_eq!(length("Transfer-Encoding: chunked\r\n"), Err(HttpError::TransferCoding));
    }

    #[test]
    fn heads_are_bounded() {
        let mut parser = RequestParser::new();
        let mut bytes = b"GET / HTTP/1.1\r\nX: ".to_vec();
        bytes.resize(MAX_HEAD - 1, b'x');
        assert_eq!(parser.push(&bytes), Ok(None));
        assert_eq!(parser.push(b"xx"), Err(HttpError::HeadTooLong));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(parse(many.as_bytes()), Err(HttpError::HeadTooLong));
    }

    #[test]
    fn garbage_is_refused_from_its_first_bytes() {
        for bytes in [&b"\x16\x03\x01"[..], b"SSH-2.0-x\r\n", b"\0", b"GET / HTTP/2.0\r\n\r\n"] {
            assert_eq!(parse(bytes), Err(HttpError::NotHttp), "{bytes:?}");
        }
    }

    #[test]
    fn a_connect_with_credentials() {
        let mut out = Vec::new();
        emit_connect(&mut out, "da.example.net:443", Some(("Aladdin", "open sesame")));
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("CONNECT da.example.net:443 HTTP/1.1\r\nHost: da.example.net:443\r\n"));
        assert!(text.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"));
    }

    #[test]
    fn base64_pads() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn dates() {
        for (unix, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(ImfDate(unix).to_string(), text);
        }
    }

    #[test]
    fn responses() {
        let mut parser = ResponseParser::new();
        let mut out = Vec::new();
        emit_accept(&mut out, 0, true);
        let length = out.len();
        out.extend_from_slice(&[0x60]);
        let finished = parser.push(&out).unwrap().unwrap();
        assert!(finished.head.is_success() && finished.head.agrees_segments());
        assert_eq!(finished.used, length);
        let refused = parser.push(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap().unwrap();
        assert!(!refused.head.is_success());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1usize..40) {
            let (mut request, mut response) = (RequestParser::new(), ResponseParser::new());
            for piece in bytes.chunks(cut) {
                let _ = request.push(piece);
                let _ = response.push(piece);
            }
        }

        #[test]
        fn pieces_do_not_change_the_outcome(tail in prop::collection::vec(any::<u8>(), 0..50), cut in 1usize..100) {
            let bytes = [SPECIFICATION_REQUEST, &tail].concat();
            let mut parser = RequestParser::new();
            let mut offset = 0;
            for piece in bytes.chunks(cut) {
                if let Some(finished) = parser.push(piece).unwrap() {
                    prop_assert_eq!(offset + finished.used, SPECIFICATION_REQUEST.len());
                    prop_assert!(finished.head.is_iphttps());
                    return Ok(());
                }
                offset += piece.len();
            }
            prop_assert!(false, "the head never finished");
        }
    }
}
