//! Where records are opened to: plaintext of many records, contiguous, behind headroom.

use crate::core::frame::HEADROOM;
use crate::core::iphttps::Plaintext;

#[derive(Debug, Default)]
pub struct PlainBuffer {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl PlainBuffer {
    /// With room for the plaintext of `cipher` bytes of records.
    pub fn new(cipher: usize) -> Self {
        Self { buffer: vec![0; HEADROOM + cipher].into_boxed_slice(), start: HEADROOM, end: HEADROOM }
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
        self.start += count;
        debug_assert!(self.start <= self.end);
    }

    /// The content for a deframer, which uses it up.
    pub fn input(&mut self) -> Plaintext<'_> {
        Plaintext { buffer: &mut self.buffer, start: self.start, end: self.end }
    }
}
