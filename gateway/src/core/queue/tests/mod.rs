//! The queue on a line of virtual time: a line of a rate takes packets out, senders put them in.

mod bounds;
mod fairness;
mod pace;
mod signals;

use std::sync::Arc;
use std::time::Duration;

use super::{Budget, FairQueue, Packet};
use crate::core::frame::Offload;
use crate::core::time::Now;

const LIMIT: usize = 1 << 20;

fn queue(limit: usize) -> FairQueue {
    FairQueue::new(Now::from_secs(1), 7, limit, Arc::new(Budget::new(16 * LIMIT)))
}

/// A UDP packet of `len` bytes of flow `flow`, numbered so that order can be seen. `ecn` are the two ECN bits.
fn packet(flow: u16, number: u32, len: usize, ecn: u8) -> Vec<u8> {
    let mut packet = vec![0; len.max(60)];
    let payload = (packet.len() - 40) as u16;
    packet[..2].copy_from_slice(&[0x60, ecn << 4]);
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    packet[6..8].copy_from_slice(&[17, 64]);
    packet[8] = 0xfd;
    packet[24..26].copy_from_slice(&[0xfd, 1]);
    packet[40..42].copy_from_slice(&flow.to_be_bytes());
    packet[48..52].copy_from_slice(&number.to_be_bytes());
    packet
}

fn push(queue: &mut FairQueue, now: Now, flow: u16, number: u32, len: usize) {
    queue.push(now, &packet(flow, number, len, 0), Offload::default());
}

fn flow_of(packet: &Packet) -> u16 {
    u16::from_be_bytes([packet.bytes[40], packet.bytes[41]])
}

fn number_of(packet: &Packet) -> u32 {
    u32::from_be_bytes([packet.bytes[48], packet.bytes[49], packet.bytes[50], packet.bytes[51]])
}

/// Bytes a second that take so long for a packet.
fn serialization(bytes: usize, rate: u64) -> Duration {
    Duration::from_micros(bytes as u64 * 1_000_000 / rate)
}
