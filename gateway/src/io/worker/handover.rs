//! Packets to sessions: here, or at another worker through its bounded queue.

use std::rc::Rc;

use tokio::sync::mpsc;

use super::session::Session;
use super::{Foreign, Worker};
use crate::core::frame::Offload;
use crate::core::iphttps::SessionId;
use crate::io::vital::Vital;

/// Packets taken from the queue before others get their turn.
const BATCH: usize = 128;

impl Worker {
    pub(super) fn session(&self, id: SessionId) -> Option<Rc<Session>> {
        self.sessions.borrow().get(&id).filter(|session| session.is_up()).cloned()
    }

    /// Queues one frame for a session of any worker.
    pub(super) fn send_packet(&self, id: SessionId, packet: &[u8], offload: Offload) {
        let counters = &self.handle().counters;
        let owner = self.shared.worker_of(id);
        if owner == self.index {
            let Some(session) = self.session(id) else { return counters.drop_no_session.add(1) };
            if self.runs.borrow_mut().append(&session, packet, offload).is_err() {
                self.unusable(&session);
            }
            return;
        }
        let foreign = Foreign { session: id, packet: packet.into(), offload };
        if self.shared.workers[owner].packets.try_send(foreign).is_err() {
            counters.drop_handover_full.add(1);
        }
    }

    pub(super) fn broadcast_here(&self, except: SessionId, packet: &[u8]) {
        let sessions = self.sessions.borrow();
        for session in sessions.values().filter(|session| session.id != except && session.is_up()) {
            if self.runs.borrow_mut().append(session, packet, Offload::default()).is_err() {
                self.unusable(session);
            }
        }
    }

    pub(super) fn unusable(&self, session: &Session) {
        self.handle().counters.drop_unusable.add(1);
        if let Some(info) = session.info() {
            info.traffic.drop_unusable.add(1);
        }
    }

    pub(super) async fn from_other_workers(self: Rc<Self>, mut packets: mpsc::Receiver<Foreign>) {
        let _vital = Vital("takes packets from other workers");
        let mut batch = Vec::with_capacity(BATCH);
        while packets.recv_many(&mut batch, BATCH).await > 0 {
            for Foreign { session, packet, offload } in batch.drain(..) {
                self.send_packet(session, &packet, offload);
            }
            self.end_of_vector();
            tokio::task::yield_now().await;
        }
    }
}
