//! What waits for sessions while a vector is handled: one run of framed packets per session, sealed and sent together.

use std::rc::Rc;

use super::session::Session;
use crate::core::frame::Offload;
use crate::io::outgoing::{Run, Unframeable};
use crate::io::scratch::Sealing;

/// Sessions served by one vector before the oldest run is sent early.
const MAX_RUNS: usize = 16;

/// A run and whose it is.
#[derive(Debug)]
pub(super) struct Entry {
    pub session: Rc<Session>,
    pub run: Run,
}

#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The one used last is at the end.
    entries: Vec<Entry>,
    free: Vec<Run>,
    sealing: Sealing,
    /// Sessions that own a queue.
    queueing: Vec<Rc<Session>>,
}

impl Runs {
    /// Takes the run used last out, to read into it; give it back with `put`.
    pub fn take_current(&mut self) -> Option<Entry> {
        self.entries.pop()
    }

    /// Puts a run back as the one used last.
    pub fn put(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Puts a run back below the one used last.
    pub fn put_below(&mut self, entry: Entry) {
        let index = self.entries.len().saturating_sub(1);
        self.entries.insert(index, entry);
    }

    /// The run of `session`, made the one used last.
    fn entry_of(&mut self, session: &Rc<Session>) -> &mut Entry {
        if let Some(index) = self.entries.iter().position(|entry| Rc::ptr_eq(&entry.session, session)) {
            let last = self.entries.len() - 1;
            self.entries.swap(index, last);
        } else {
            if self.entries.len() >= MAX_RUNS {
                let mut oldest = self.entries.remove(0);
                self.send(&mut oldest);
                self.free.push(oldest.run);
            }
            let run = self.free.pop().unwrap_or_default();
            self.entries.push(Entry { session: session.clone(), run });
        }
        let last = self.entries.len() - 1;
        &mut self.entries[last]
    }

    /// Adds one frame for `session`.
    pub fn append(&mut self, session: &Rc<Session>, packet: &[u8], offload: Offload) -> Result<(), Unframeable> {
        if session.transport.waits() {
            // What was collected before it began to wait came first.
            if let Some(index) = self.entries.iter().position(|entry| Rc::ptr_eq(&entry.session, session)) {
                let mut entry = self.entries.swap_remove(index);
                self.send(&mut entry);
                self.free.push(entry.run);
            }
            session.let_wait(packet, offload);
            self.remember(session);
            return Ok(());
        }
        let format = session.format();
        let run = &mut self.entry_of(session).run;
        if run.append(packet, offload, format).is_ok() {
            return Ok(());
        }
        if run.is_empty() {
            return Err(Unframeable);
        }
        // It may only have been too much for what was left of the run.
        if let Some(mut entry) = self.entries.pop() {
            self.send(&mut entry);
            self.entries.push(entry);
        }
        self.entry_of(session).run.append(packet, offload, format)
    }

    /// Sends one run and empties it.
    pub fn send(&mut self, entry: &mut Entry) {
        if !entry.run.is_empty() {
            entry.session.send_run(&entry.run, &mut self.sealing);
            entry.run.clear();
            self.remember(&entry.session);
        }
    }

    fn remember(&mut self, session: &Rc<Session>) {
        if session.transport.has_new_queue() {
            self.queueing.push(session.clone());
        }
    }

    /// Frees the queues that are not needed any more. Call now and then.
    pub fn rest(&mut self) {
        self.queueing.retain(|session| session.is_up() && session.rest());
    }

    /// Sends everything. Call at the end of every vector.
    pub fn flush(&mut self) {
        while let Some(mut entry) = self.entries.pop() {
            self.send(&mut entry);
            self.free.push(entry.run);
        }
    }
}
