//! The way to the host: packets are merged into super-segments and written to a TUN queue.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::outgoing::segments;
use super::stats::HostCounters;
use super::tun::Device;
use crate::core::frame::{Frame, MAX_PACKET, Offload};
use crate::core::segments::coalesce::Coalescer;
use crate::core::segments::split::Segments;

/// Writes frames to one TUN queue, as the kernel of this machine takes them.
#[derive(Debug)]
pub struct HostWriter {
    device: Rc<Device>,
    counters: Arc<HostCounters>,
    /// One packet of a super-segment that must be split.
    scratch: Box<[u8]>,
}

impl HostWriter {
    pub fn new(device: Rc<Device>, counters: Arc<HostCounters>) -> Self {
        Self { device, counters, scratch: Box::default() }
    }

    pub fn write(&mut self, frame: &Frame<'_>) {
        self.write_packet(frame.bytes(), frame.offload);
    }

    pub fn write_packet(&mut self, packet: &[u8], offload: Offload) {
        if self.device.takes(offload) {
            let result = self.device.write(packet, offload);
            return self.count(segments(packet, offload), packet.len(), &result);
        }
        if self.scratch.is_empty() {
            self.scratch = vec![0; MAX_PACKET].into_boxed_slice();
        }
        let Ok(mut pieces) = Segments::new(packet, offload) else {
            return self.counters.refused.add(1);
        };
        while let Ok(Some(len)) = pieces.next_into(&mut self.scratch) {
            let result = self.device.write(&self.scratch[..len], Offload::default());
            self.count(1, len, &result);
        }
    }

    fn count(&self, packets: u64, bytes: usize, result: &io::Result<()>) {
        let counters = &self.counters;
        if result.is_err() {
            return counters.refused.add(packets);
        }
        counters.packets.add(packets);
        counters.bytes.add(bytes as u64);
        counters.writes.add(1);
    }
}

/// A writer with a merger in front.
#[derive(Debug)]
pub struct MergingWriter {
    pub writer: HostWriter,
    coalescer: Coalescer,
}

impl MergingWriter {
    pub fn new(writer: HostWriter) -> Self {
        Self { writer, coalescer: Coalescer::default() }
    }

    pub fn push(&mut self, frame: &mut Frame<'_>) {
        let Self { writer, coalescer } = self;
        coalescer.push(frame, &mut |frame| writer.write(frame));
    }

    /// Call at the end of every vector.
    pub fn flush(&mut self) {
        let Self { writer, coalescer } = self;
        coalescer.flush(&mut |frame| writer.write(frame));
    }
}
