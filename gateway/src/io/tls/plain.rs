//! Where records are opened to: plaintext of many records, contiguous, behind headroom. What a deframer leaves of it, the
//! start of a packet, stays where it is as long as the same connection is read next, so that nothing is copied for it.

use crate::core::frame::HEADROOM;
use crate::core::iphttps::Plaintext;

#[derive(Debug, Default)]
pub struct PlainBuffer {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl PlainBuffer {
    /// With room for so many bytes.
    pub fn new(room: usize) -> Self {
        Self { buffer: vec![0; HEADROOM + room].into_boxed_slice(), start: HEADROOM, end: HEADROOM }
    }

    /// Moves the content to the front when there is no room for `count` bytes behind it.
    pub fn reserve(&mut self, count: usize) {
        if self.buffer.len() - self.end < count {
            self.buffer.copy_within(self.start..self.end, HEADROOM);
            (self.start, self.end) = (HEADROOM, HEADROOM + self.len());
        }
    }

    pub fn clear(&mut self) {
        (self.start, self.end) = (HEADROOM, HEADROOM);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// What is not used yet.
    pub fn free(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end..]
    }

    /// Makes the first `count` bytes of what is free part of the content.
    pub fn commit(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.buffer.len());
    }

    /// Forgets the first `count` bytes of the content.
    pub fn consume(&mut self, count: usize) {
        self.consume_to(self.start + count);
    }

    /// Forgets what lies before `start`, which is that of an [`Self::input`].
    pub fn consume_to(&mut self, start: usize) {
        debug_assert!((self.start..=self.end).contains(&start));
        self.start = start;
        if self.is_empty() {
            self.clear();
        }
    }

    /// The content for a deframer; `consume_to` where that arrived.
    pub fn input(&mut self) -> Plaintext<'_> {
        Plaintext { buffer: &mut self.buffer, start: self.start, end: self.end }
    }
}
