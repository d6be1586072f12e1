//! The unit that moves through the packet path: one IP packet or one super-segment, in a borrowed buffer with headroom.
//!
//! A frame never owns memory. Translation and encapsulation move its start within the headroom, so nothing is copied
//! between the read that filled the buffer and the write (or the TLS record) that empties it.

pub use crate::wire::offload::{Offload, SegmentKind};

/// Bytes kept free before a packet: the IPv4 to IPv6 header growth (20), a Fragment header (8), a segment header (4)
/// and a virtio header (12), rounded up.
pub const HEADROOM: usize = 64;

/// The largest packet or super-segment: an IPv6 header and the largest payload length.
pub const MAX_PACKET: usize = 40 + 65_535;

/// A buffer of this size holds any frame with its headroom.
pub const BUFFER_SIZE: usize = HEADROOM + MAX_PACKET;

/// One packet or super-segment, `buffer[start..end]`.
#[derive(Debug)]
pub struct Frame<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    pub offload: Offload,
}

impl<'a> Frame<'a> {
    /// A frame over `buffer[start..end]`.
    ///
    /// # Panics
    /// When the range does not lie in the buffer.
    pub fn new(buffer: &'a mut [u8], start: usize, end: usize, offload: Offload) -> Self {
        assert!(start <= end && end <= buffer.len(), "a frame lies in its buffer");
        Self { buffer, start, end, offload }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes free before the frame.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Bytes free behind the frame.
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - self.end
    }

    /// Moves the start `count` bytes forward (removes a header).
    ///
    /// # Panics
    /// When the frame is shorter.
    pub fn pull(&mut self, count: usize) {
        assert!(count <= self.len(), "pull stays within the frame");
        self.start += count;
    }

    /// Moves the start `count` bytes back (makes room for a header, whose bytes are whatever was there).
    ///
    /// # Panics
    /// When the headroom is smaller.
    pub fn push(&mut self, count: usize) {
        assert!(count <= self.start, "push stays within the headroom");
        self.start -= count;
    }

    /// Shortens or lengthens the frame at its end.
    ///
    /// # Panics
    /// When the buffer ends before.
    pub fn set_len(&mut self, len: usize) {
        assert!(self.start + len <= self.buffer.len(), "a frame lies in its buffer");
        self.end = self.start + len;
    }

    /// Replaces the content, keeping the start when the bytes fit behind it, and clears the offload.
    ///
    /// # Panics
    /// When the buffer is smaller than `bytes`.
    pub fn replace(&mut self, bytes: &[u8]) {
        if self.start + bytes.len() > self.buffer.len() {
            self.start = 0;
        }
        self.set_len(bytes.len());
        self.bytes_mut().copy_from_slice(bytes);
        self.offload = Offload::default();
    }
}
