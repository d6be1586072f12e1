//! The buffers of one worker. Sessions own none while they rest: whatever is in flight lies here, between the read that
//! filled it and the write that emptied it.

use crate::core::frame::{BUFFER_SIZE, MAX_PACKET};
use crate::core::iphttps::SessionId;
use crate::io::outgoing::Run;
use crate::io::tls::plain::PlainBuffer;
use crate::io::tls::records::{MAX_RECORD, sealed_len};
use crate::wire::segment_header::SegmentHeader;

/// Ciphertext taken from a socket in one read. Larger gains nothing (the record cipher dominates) and leaves the cache.
pub const READ_LEN: usize = 256 * 1024;
/// Plaintext sealed at once: several super-segments.
pub const RUN_LEN: usize = 256 * 1024;

#[derive(Debug)]
pub struct Scratch {
    /// Ciphertext: the unfinished record of the session, then what was read.
    pub cipher_in: Box<[u8]>,
    /// What was opened.
    pub plain_in: PlainBuffer,
    /// Whose start of a packet is at the end of it.
    pub plain_of: Option<SessionId>,
    /// Sealed records on their way to a socket.
    pub cipher_out: Box<[u8]>,
    /// For packets that have waited.
    pub sealing: Sealing,
    /// Handshake records and alerts.
    pub control_out: Vec<u8>,
    /// One frame with room to become something else.
    pub frame: Box<[u8]>,
}

impl Default for Scratch {
    fn default() -> Self {
        let cipher_in = MAX_RECORD + READ_LEN;
        Self {
            cipher_in: vec![0; cipher_in].into_boxed_slice(),
            plain_in: PlainBuffer::new(cipher_in + SegmentHeader::LEN + MAX_PACKET),
            plain_of: None,
            cipher_out: vec![0; sealed_len(RUN_LEN)].into_boxed_slice(),
            sealing: Sealing::default(),
            control_out: Vec::new(),
            frame: vec![0; BUFFER_SIZE].into_boxed_slice(),
        }
    }
}

/// What packets go through between the queue and the socket.
#[derive(Debug)]
pub struct Sealing {
    /// The packets that are next.
    pub run: Run,
    pub cipher: Box<[u8]>,
}

impl Default for Sealing {
    fn default() -> Self {
        Self { run: Run::default(), cipher: vec![0; sealed_len(RUN_LEN)].into_boxed_slice() }
    }
}
