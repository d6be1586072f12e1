//! NAT64 on the packet path: between the tunnel's sessions and a TUN device that carries IPv4.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::Worker;
use crate::core::frame::{BUFFER_SIZE, Frame, HEADROOM, Offload};
use crate::core::nat64::Verdict;
use crate::core::segments::coalesce::Coalescer;
use crate::io::host::HostWriter;
use crate::io::nat64::{Plan, Shards};
use crate::io::stats::HostCounters;
use crate::io::tun::{Device, Read};
use crate::io::vital::Vital;
use crate::wire::{ipv4, ipv6};

/// Reads of the queue before others get their turn.
const READS: usize = 64;
/// Steps of expired sessions in one turn of the timers.
const TIMER_STEPS: usize = 64;
/// A frame's buffer must have room for an ICMPv6 error, and for headers that grow when it turns round.
const ROOM: usize = HEADROOM + 1280;

pub(super) struct Nat64Path {
    pub device: Rc<Device>,
    writer: RefCell<HostWriter>,
    /// Merges what clients send, so that it is translated and written as super-segments.
    coalescer: RefCell<Coalescer>,
    buffer: RefCell<Box<[u8]>>,
    translator: RefCell<Option<Rc<Translator>>>,
    /// Packets from the translator to an address of the pool. They wait until no shard is locked.
    turning: RefCell<VecDeque<(Vec<u8>, Offload)>>,
}

/// The translator as this worker knows it: shared with the others, but reached without touching what they write.
struct Translator {
    shards: Arc<Shards>,
    plan: Arc<Plan>,
}

impl Translator {
    fn new(shards: Arc<Shards>) -> Rc<Self> {
        Rc::new(Self { plan: shards.plan(), shards })
    }
}

impl Nat64Path {
    pub fn new(device: Rc<Device>, counters: &Arc<HostCounters>, shards: Option<Arc<Shards>>) -> Self {
        Self {
            writer: RefCell::new(HostWriter::new(device.clone(), counters.clone())),
            device,
            coalescer: RefCell::default(),
            buffer: RefCell::new(vec![0; BUFFER_SIZE].into_boxed_slice()),
            translator: RefCell::new(shards.map(Translator::new)),
            turning: RefCell::default(),
        }
    }

    pub fn use_shards(&self, shards: Option<Arc<Shards>>) {
        *self.translator.borrow_mut() = shards.map(Translator::new);
    }

    fn translator(&self) -> Option<Rc<Translator>> {
        self.translator.borrow().clone()
    }
}

impl Worker {
    /// Whether an IPv6 packet, at least a header long, is for the IPv4 side.
    pub(super) fn is_for_nat64(&self, packet: &[u8]) -> bool {
        let Some(path) = &self.nat64 else { return false };
        let translator = path.translator.borrow();
        translator.as_ref().is_some_and(|known| packet.len() >= 40 && known.plan.contains(ipv6::destination(packet)))
    }

    pub(super) fn to_nat64(&self, frame: &mut Frame<'_>) {
        let Some(path) = &self.nat64 else { return };
        path.coalescer.borrow_mut().push(frame, &mut |frame| self.translate(path, frame));
    }

    pub(super) fn flush_nat64(&self) {
        let Some(path) = &self.nat64 else { return };
        path.coalescer.borrow_mut().flush(&mut |frame| self.translate(path, frame));
    }

    /// One frame from IPv6.
    fn translate(&self, path: &Nat64Path, frame: &mut Frame<'_>) {
        if frame.headroom() >= HEADROOM && frame.len() + frame.tailroom() >= ROOM - HEADROOM {
            return self.translate_in_place(path, frame);
        }
        let buffer = &mut *path.buffer.borrow_mut();
        let end = HEADROOM + frame.len();
        buffer[HEADROOM..end].copy_from_slice(frame.bytes());
        self.translate_in_place(path, &mut Frame::new(buffer, HEADROOM, end, frame.offload));
    }

    fn translate_in_place(&self, path: &Nat64Path, frame: &mut Frame<'_>) {
        let counters = &self.handle().counters;
        let Some(translator) = path.translator() else { return counters.drop_nat64_off.add(1) };
        self.take_ipv6(path, &translator, frame);
        self.turn_round(path, &translator);
    }

    fn take_ipv6(&self, path: &Nat64Path, translator: &Translator, frame: &mut Frame<'_>) {
        let counters = &self.handle().counters;
        let shard = translator.shards.of_v6(frame.bytes());
        let mut pieces = |bytes: &[u8]| self.emerge(path, bytes, Offload::default());
        let verdict = shard.lock().from_v6(self.shared.clock.now(), frame, &mut pieces);
        match verdict {
            Verdict::Forward => {
                counters.nat64_to_ipv4.add(1);
                self.emerge(path, frame.bytes(), frame.offload);
            }
            Verdict::Reply => self.emerge(path, frame.bytes(), frame.offload),
            Verdict::Sent => counters.nat64_to_ipv4.add(1),
            Verdict::Held => {}
            Verdict::Drop(_) => counters.drop_nat64.add(1),
        }
    }

    /// What came out of the translator goes to the side its version names, unless it is for the translator again: then
    /// it has to wait, since this runs while a shard is locked, and another one may be the right one.
    fn emerge(&self, path: &Nat64Path, packet: &[u8], offload: Offload) {
        let translator = path.translator.borrow();
        let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
        let again = translator.as_ref().is_some_and(|known| match is_v4 {
            true => packet.len() >= ipv4::HEADER_LEN && known.plan.is_own(ipv4::destination(packet)),
            false => packet.len() >= ipv6::HEADER_LEN && known.plan.contains(ipv6::destination(packet)),
        });
        drop(translator);
        if again {
            return path.turning.borrow_mut().push_back((packet.to_vec(), offload));
        }
        if is_v4 {
            return path.writer.borrow_mut().write_packet(packet, offload);
        }
        if let Some(id) = self.route(packet, offload) {
            self.send_packet(id, packet, offload);
        }
    }

    /// Gives packets that one client sends to the mapped port of another back to the translator: the kernel would not
    /// return them to the device they came from (RFC 6146 section 3.8). What no mapping takes is for the host itself.
    /// An IPv6 packet here was put together from fragments that no shard could be told from.
    ///
    /// Each turn costs one of the TTL and errors are not answered with errors, so this ends.
    fn turn_round(&self, path: &Nat64Path, translator: &Translator) {
        loop {
            let Some((packet, offload)) = path.turning.borrow_mut().pop_front() else { return };
            let is_v4 = packet[0] >> 4 == 4;
            if is_v4 && !translator.shards.shards.iter().any(|shard| shard.lock().takes(&packet)) {
                path.writer.borrow_mut().write_packet(&packet, offload);
                continue;
            }
            let (end, mut buffer) = (HEADROOM + packet.len(), vec![0; HEADROOM + packet.len().max(ROOM)]);
            buffer[HEADROOM..end].copy_from_slice(&packet);
            let frame = &mut Frame::new(&mut buffer, HEADROOM, end, offload);
            match is_v4 {
                true => self.take_ipv4(path, translator, frame),
                false => self.take_ipv6(path, translator, frame),
            }
        }
    }

    pub(super) async fn from_nat64(self: Rc<Self>) {
        let _vital = Vital("translates packets from IPv4 servers");
        let Some(path) = &self.nat64 else { return };
        let mut buffer = vec![0; BUFFER_SIZE].into_boxed_slice();
        loop {
            let result = match path.device.readable().await {
                Ok(()) => self.take_nat64_vector(path, &mut buffer),
                Err(error) => Err(error),
            };
            self.end_of_vector();
            match result {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => self.device_lost("NAT64_DEVICE", &error).await,
            }
        }
    }

    fn take_nat64_vector(&self, path: &Nat64Path, buffer: &mut [u8]) -> io::Result<()> {
        let counters = &self.handle().counters;
        let translator = path.translator();
        for _ in 0..READS {
            match path.device.read(&mut buffer[HEADROOM..])? {
                Read::Empty => break,
                Read::Unusable(_) => counters.drop_unusable.add(1),
                Read::Packet(len, offload) => {
                    counters.host_reads.add(1);
                    // The kernel sends IPv6 discovery into every device.
                    if buffer[HEADROOM] >> 4 != 4 {
                        continue;
                    }
                    let Some(translator) = &translator else {
                        counters.drop_nat64_off.add(1);
                        continue;
                    };
                    let frame = &mut Frame::new(buffer, HEADROOM, HEADROOM + len, offload);
                    self.take_ipv4(path, translator, frame);
                    self.turn_round(path, translator);
                }
            }
        }
        Ok(())
    }

    fn take_ipv4(&self, path: &Nat64Path, translator: &Translator, frame: &mut Frame<'_>) {
        let counters = &self.handle().counters;
        let shards = &translator.shards.shards;
        let now = self.shared.clock.now();
        let mut pieces = |bytes: &[u8]| self.emerge(path, bytes, Offload::default());
        let verdict = match translator.plan.shard_of_v4(frame.bytes()) {
            Some(shard) => shards[shard].lock().from_v4(now, frame, &mut pieces),
            // A later fragment names no port: it belongs to the shard that knows its first.
            None => {
                let known = shards.iter().find(|shard| shard.lock().takes(frame.bytes()));
                if let Some(shard) = known {
                    shard.lock().from_v4(now, frame, &mut pieces)
                } else {
                    let mut verdict = Verdict::Held;
                    for shard in shards {
                        verdict = shard.lock().from_v4(now, frame, &mut pieces);
                        if verdict != Verdict::Held {
                            break;
                        }
                    }
                    verdict
                }
            }
        };
        match verdict {
            Verdict::Forward => {
                counters.nat64_to_ipv6.add(1);
                self.emerge(path, frame.bytes(), frame.offload);
            }
            Verdict::Reply => self.emerge(path, frame.bytes(), frame.offload),
            Verdict::Sent => counters.nat64_to_ipv6.add(1),
            Verdict::Held => {}
            Verdict::Drop(_) => counters.drop_nat64.add(1),
        }
    }

    /// Each worker sees to the timers of the shard with its number. What is due is done in steps, between which packets
    /// of other workers may pass.
    pub(super) fn nat64_timers(&self) {
        let Some(path) = &self.nat64 else { return };
        let Some(translator) = path.translator() else { return };
        let shard = &translator.shards.shards[self.index];
        for _ in 0..TIMER_STEPS {
            let now = self.shared.clock.now();
            let mut nat = shard.lock();
            let due = nat.next_timeout().is_some_and(|at| at <= now);
            if due {
                nat.handle_timeout(now, &mut |bytes: &[u8]| self.emerge(path, bytes, Offload::default()));
            }
            let noted = nat.log_len() > 0;
            MutexGuard::unlock_fair(nat);
            self.turn_round(path, &translator);
            if !due {
                if noted {
                    self.shared.events.wake();
                }
                return;
            }
        }
    }
}
