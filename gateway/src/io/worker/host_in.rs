//! From the host to the sessions: vectors of packets from this worker's TUN queue.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::{Sink, Worker};
use crate::core::frame::{Frame, Offload, SegmentKind};
use crate::core::iphttps::{Format, FromHost, LinkSink, SessionId};
use crate::io::tun::Read;
use crate::io::vital::Vital;
use crate::wire::virtio::headers_len;

/// Reads of the queue before others get their turn.
const READS: usize = 64;
/// No session has this number.
const NOBODY: SessionId = SessionId(u64::MAX);

impl Worker {
    pub(super) async fn from_tunnel(self: Rc<Self>) {
        let _vital = Vital("reads packets for clients");
        let mut reader = self.scratch.borrow().frame.clone();
        loop {
            let result = match self.tunnel.readable().await {
                Ok(()) => self.take_vector(&mut reader),
                Err(error) => Err(error),
            };
            self.end_of_vector();
            match result {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => self.device_lost("TUNNEL_DEVICE", &error).await,
            }
        }
    }

    /// A TUN device that is down or gone: say so, and do not spin.
    pub(super) async fn device_lost(&self, code: &'static str, error: &io::Error) {
        self.shared.events.warn(code, &format!("a TUN queue cannot be read: {error}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    fn take_vector(&self, reader: &mut [u8]) -> io::Result<()> {
        for _ in 0..READS {
            if !self.take_one(reader)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads one packet; false when there is none. It is read to where it is needed if it belongs to the session served
    /// last, which for bulk traffic is nearly always so.
    fn take_one(&self, reader: &mut [u8]) -> io::Result<bool> {
        let current = self.runs.borrow_mut().take_current();
        let Some(mut entry) = current else { return self.take_indirectly(reader) };
        if entry.session.format() != Format::Segments || entry.session.transport.waits() {
            self.runs.borrow_mut().put(entry);
            return self.take_indirectly(reader);
        }
        if !entry.run.has_room() {
            self.runs.borrow_mut().send(&mut entry);
            if entry.session.transport.waits() {
                self.runs.borrow_mut().put(entry);
                return self.take_indirectly(reader);
            }
        }
        let read = self.tunnel.read(entry.run.slot());
        if let Ok(Read::Packet(len, offload)) = read {
            match self.route(entry.run.slot_packet(len), offload) {
                Some(id) if id == entry.session.id => {
                    let committed = entry.run.commit(len, offload);
                    if committed.is_err() {
                        self.unusable(&entry.session);
                    }
                }
                Some(id) => {
                    self.send_packet(id, entry.run.slot_packet(len), offload);
                    self.runs.borrow_mut().put_below(entry);
                    return self.count(&read?);
                }
                None => {}
            }
        }
        self.runs.borrow_mut().put(entry);
        self.count(&read?)
    }

    fn take_indirectly(&self, reader: &mut [u8]) -> io::Result<bool> {
        let read = self.tunnel.read(reader)?;
        if let Read::Packet(len, offload) = read
            && let Some(id) = self.route(&reader[..len], offload)
        {
            self.send_packet(id, &reader[..len], offload);
        }
        self.count(&read)
    }

    fn count(&self, read: &Read) -> io::Result<bool> {
        match read {
            Read::Packet(..) => self.handle().counters.host_reads.add(1),
            Read::Unusable(_) => self.handle().counters.drop_unusable.add(1),
            Read::Empty => return Ok(false),
        }
        Ok(true)
    }

    /// The session that a packet for a client belongs to. None when it is nobody's, or was dealt with.
    pub(super) fn route(&self, packet: &[u8], offload: Offload) -> Option<SessionId> {
        match self.shared.link.from_host(self.shared.clock.now(), packet, longest(packet, offload)) {
            FromHost::To(id) => return Some(id),
            FromHost::ToAll => Sink(self).broadcast_except(NOBODY, packet),
            FromHost::Undeliverable(mut error) => {
                let len = error.len();
                let mut frame = Frame::new(&mut error, 0, len, Offload::default());
                self.tunnel_writer.borrow_mut().push(&mut frame);
            }
            FromHost::Drop(_) => self.handle().counters.drop_link.add(1),
        }
        None
    }
}

/// The length of the longest packet that a frame stands for.
fn longest(packet: &[u8], offload: Offload) -> usize {
    if offload.kind == SegmentKind::None {
        return packet.len();
    }
    headers_len(packet).map_or(packet.len(), |headers| packet.len().min(headers + usize::from(offload.segment_size)))
}
