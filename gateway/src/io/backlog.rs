//! Ciphertext that a socket did not take, in order.

use std::collections::VecDeque;
use std::io::IoSlice;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are sent.
    sent: usize,
    len: usize,
}

impl Backlog {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.chunks.push_back(bytes.to_vec());
        }
    }

    /// Fills `parts` with what is to be written first; returns how many it filled.
    pub fn parts<'a>(&'a self, parts: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.sent;
        let mut count = 0;
        for (part, chunk) in parts.iter_mut().zip(&self.chunks) {
            *part = IoSlice::new(&chunk[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// So many bytes are written.
    pub fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while let Some(first) = self.chunks.front() {
            let left = first.len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            self.chunks.pop_front();
        }
        // An idle session owns no memory for it.
        self.chunks = VecDeque::new();
    }
}
