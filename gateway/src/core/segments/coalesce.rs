//! Packets of one flow into super-segments, by the kernel's GRO rules, so that the host's stack is entered once for
//! many packets (net/ipv6/ip6_offload.c ipv6_gro_receive, net/ipv4/tcp_offload.c tcp_gro_receive,
//! net/ipv4/udp_offload.c udp_gro_receive_segment).
//!
//! Only IPv6 without extension headers is merged: nothing else comes out of a tunnel. Order within a flow is kept;
//! flows may overtake each other within one vector. Splitting a super-segment gives back exactly the packets that
//! went in, which is what makes merging invisible to the peers.

use crate::core::frame::{BUFFER_SIZE, Frame, HEADROOM, Offload, SegmentKind};
use crate::wire::checksum::{add, finish, pseudo_of, sum};
use crate::wire::virtio::{TCP, UDP, headers_len};

/// Flows merged side by side; the oldest gives way to a newcomer.
const FLOWS: usize = 16;
/// The kernel's own limit (UDP_MAX_SEGMENTS was 64 until 6.5, and older kernels refuse more).
const UDP_SEGMENTS: usize = 64;
/// A super-segment with its IP header stays below this, the largest length that both IP versions can express.
const MAX_LEN: usize = 65_535;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_PSH: u8 = 0x08;
const TCP_URG: u8 = 0x20;
const TCP_CWR: u8 = 0x80;
/// A segment with one of these ends its super-segment.
const TCP_ENDS: u8 = TCP_URG | TCP_PSH | TCP_RST | TCP_SYN | TCP_FIN;

/// One flow being merged.
#[derive(Debug)]
struct Flow {
    buffer: Box<[u8]>,
    /// Bytes of the super-segment so far; 0 when the slot is free.
    len: usize,
    headers: usize,
    segment_size: usize,
    segments: usize,
    protocol: u8,
    next_sequence: u32,
}

impl Flow {
    fn packet(&self) -> &[u8] {
        &self.buffer[HEADROOM..HEADROOM + self.len]
    }

    /// Same addresses, ports, protocol and flow label.
    fn is_of(&self, packet: &[u8], protocol: u8) -> bool {
        let own = &self.buffer[HEADROOM..HEADROOM + 44];
        self.protocol == protocol && own[8..44] == packet[8..44] && own[0] >> 4 == packet[0] >> 4
    }

    fn start(&mut self, packet: &[u8], headers: usize, protocol: u8) {
        self.buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        self.len = packet.len();
        self.headers = headers;
        self.segment_size = packet.len() - headers;
        self.segments = 1;
        self.protocol = protocol;
        if protocol == TCP {
            self.next_sequence = sequence(packet).wrapping_add(self.segment_size as u32);
        }
    }

    /// Whether `packet`, of this flow and eligible, continues the super-segment.
    fn continues(&self, packet: &[u8], headers: usize) -> bool {
        let own = self.packet();
        let payload = packet.len() - headers;
        // Version, traffic class (ECN too), flow label; hop limit.
        if own[..4] != packet[..4] || own[7] != packet[7] || headers != self.headers {
            return false;
        }
        if payload > self.segment_size || self.len + payload > MAX_LEN {
            return false;
        }
        if self.protocol == UDP {
            return self.segments < UDP_SEGMENTS;
        }
        // Acknowledgement number and data offset; flags; window; urgent pointer and options.
        let ignored = TCP_FIN | TCP_PSH;
        sequence(packet) == self.next_sequence
            && own[48..53] == packet[48..53]
            && (own[53] ^ packet[53]) & !ignored == 0
            && own[54..56] == packet[54..56]
            && own[58..headers] == packet[58..headers]
    }

    /// Appends the payload; true when nothing may follow.
    fn append(&mut self, packet: &[u8]) -> bool {
        let payload = &packet[self.headers..];
        let end = HEADROOM + self.len;
        self.buffer[end..end + payload.len()].copy_from_slice(payload);
        self.len += payload.len();
        self.segments += 1;
        let short = payload.len() < self.segment_size;
        if self.protocol == UDP {
            return short || self.segments == UDP_SEGMENTS;
        }
        self.next_sequence = self.next_sequence.wrapping_add(payload.len() as u32);
        let flags = packet[53];
        self.buffer[HEADROOM + 53] |= flags & (TCP_FIN | TCP_PSH);
        short || flags & TCP_ENDS != 0
    }

    /// Hands the flow's frame out and frees the slot.
    fn emit(&mut self, out: &mut impl FnMut(&mut Frame<'_>)) {
        let len = std::mem::take(&mut self.len);
        let mut offload = Offload::default();
        if self.segments > 1 {
            let packet = &mut self.buffer[HEADROOM..HEADROOM + len];
            let transport = len - 40;
            packet[4..6].copy_from_slice(&(transport as u16).to_be_bytes());
            if self.protocol == UDP {
                packet[44..46].copy_from_slice(&(transport as u16).to_be_bytes());
            }
            let position = if self.protocol == TCP { 56 } else { 46 };
            let pseudo = pseudo_of(packet, transport, self.protocol);
            packet[position..position + 2].copy_from_slice(&pseudo.to_be_bytes());
            let kind = if self.protocol == TCP { SegmentKind::Tcp } else { SegmentKind::Udp };
            offload = Offload { kind, segment_size: self.segment_size as u16, partial_checksum: true };
        }
        out(&mut Frame::new(&mut self.buffer, HEADROOM, HEADROOM + len, offload));
    }
}

fn sequence(packet: &[u8]) -> u32 {
    u32::from_be_bytes([packet[44], packet[45], packet[46], packet[47]])
}

/// What a packet is to the merger.
enum Class {
    /// Not TCP or UDP over plain IPv6: has no flow here.
    Foreign,
    /// Of a flow, but must travel alone.
    Alone { protocol: u8 },
    /// May start or continue a super-segment.
    Eligible { protocol: u8, headers: usize },
}

/// Merges the packets of one vector. Memory: `FLOWS` buffers of 64 KiB, made when first needed.
#[derive(Debug, Default)]
pub struct Coalescer {
    /// Busy slots, oldest first.
    busy: Vec<Flow>,
    free: Vec<Flow>,
}

impl Coalescer {
    /// Takes one frame; hands out, in this order, what the frame puts an end to and the frame itself if it travels alone.
    pub fn push(&mut self, frame: &mut Frame<'_>, out: &mut impl FnMut(&mut Frame<'_>)) {
        let class = classify(frame);
        let (protocol, headers) = match class {
            Class::Foreign => return out(frame),
            Class::Alone { protocol } => (protocol, None),
            Class::Eligible { protocol, headers } => (protocol, Some(headers)),
        };
        let packet = frame.bytes();
        if let Some(index) = self.busy.iter().position(|flow| flow.is_of(packet, protocol)) {
            let flow = &mut self.busy[index];
            if let Some(headers) = headers
                && flow.continues(packet, headers)
                && checksum_is_right(packet, frame.offload, protocol)
            {
                if flow.append(packet) {
                    self.emit(index, out);
                }
                return;
            }
            self.emit(index, out);
        }
        match headers {
            Some(headers) if may_start(packet, protocol) && checksum_is_right(packet, frame.offload, protocol) => {
                if self.busy.len() == FLOWS {
                    self.emit(0, out);
                }
                let mut flow = self.free.pop().unwrap_or_else(|| Flow {
                    buffer: vec![0; BUFFER_SIZE].into_boxed_slice(),
                    len: 0,
                    headers: 0,
                    segment_size: 0,
                    segments: 0,
                    protocol: 0,
                    next_sequence: 0,
                });
                flow.start(frame.bytes(), headers, protocol);
                if frame.offload.partial_checksum {
                    complete_checksum(&mut flow);
                }
                self.busy.push(flow);
            }
            _ => out(frame),
        }
    }

    /// Hands out everything that waits, oldest first. Call at the end of every vector.
    pub fn flush(&mut self, out: &mut impl FnMut(&mut Frame<'_>)) {
        while !self.busy.is_empty() {
            self.emit(0, out);
        }
    }

    fn emit(&mut self, index: usize, out: &mut impl FnMut(&mut Frame<'_>)) {
        let mut flow = self.busy.remove(index);
        flow.emit(out);
        self.free.push(flow);
    }
}

/// A flow's only packet leaves without `partial_checksum`, so what arrived with it undone is done here.
fn complete_checksum(flow: &mut Flow) {
    let position = if flow.protocol == TCP { 56 } else { 46 };
    let packet = &mut flow.buffer[HEADROOM..HEADROOM + flow.len];
    packet[position..position + 2].fill(0);
    let checksum = match finish(add(pseudo_of(packet, packet.len() - 40, flow.protocol), sum(&packet[40..]))) {
        0 if flow.protocol == UDP => 0xffff,
        value => value,
    };
    packet[position..position + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn classify(frame: &Frame<'_>) -> Class {
    let packet = frame.bytes();
    if packet.len() < 48 || packet[0] >> 4 != 6 || (packet[6] != TCP && packet[6] != UDP) {
        return Class::Foreign;
    }
    let protocol = packet[6];
    let declared = usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40;
    let Some(headers) = headers_len(packet) else { return Class::Alone { protocol } };
    if frame.offload.kind != SegmentKind::None || declared != packet.len() || packet.len() == headers {
        return Class::Alone { protocol };
    }
    let alone = if protocol == TCP {
        packet[53] & (TCP_SYN | TCP_RST | TCP_URG | TCP_CWR) != 0
    } else {
        let len = usize::from(u16::from_be_bytes([packet[44], packet[45]]));
        len != packet.len() - 40 || packet[46..48] == [0, 0]
    };
    if alone { Class::Alone { protocol } } else { Class::Eligible { protocol, headers } }
}

/// A segment that would end its super-segment at once is not worth a slot.
fn may_start(packet: &[u8], protocol: u8) -> bool {
    protocol == UDP || packet[53] & TCP_ENDS == 0
}

/// A wrong checksum must reach its receiver, who will count it, so such a packet is never merged.
fn checksum_is_right(packet: &[u8], offload: Offload, protocol: u8) -> bool {
    offload.partial_checksum || add(pseudo_of(packet, packet.len() - 40, protocol), sum(&packet[40..])) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::super::samples::{finish, tcp6, udp6};
    use super::super::split::Segments;
    use super::*;
    use proptest::prelude::*;

    const ACK: u8 = 0x10;
    const PSH: u8 = 0x18;

    /// Everything that comes out, with its offload.
    fn run(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
        let mut coalescer = Coalescer::default();
        let mut result = Vec::new();
        let mut out = |frame: &mut Frame<'_>| result.push((frame.bytes().to_vec(), frame.offload));
        for packet in packets {
            let mut buffer = packet.clone();
            let len = buffer.len();
            coalescer.push(&mut Frame::new(&mut buffer, 0, len, Offload::default()), &mut out);
        }
        coalescer.flush(&mut out);
        result
    }

    fn split(frames: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut out = vec![0; BUFFER_SIZE];
        for (packet, offload) in frames {
            let mut segments = Segments::new(packet, *offload).unwrap();
            while let Some(len) = segments.next_into(&mut out).unwrap() {
                packets.push(out[..len].to_vec());
            }
        }
        packets
    }

    /// Asserts that nothing merges.
    fn apart(packets: &[Vec<u8>]) {
        let out = run(packets);
        assert_eq!(out.len(), packets.len());
        assert_eq!(split(&out), packets);
    }

    #[test]
    fn consecutive_segments_become_one() {
        let packets = [tcp6(1, &[1; 100], ACK), tcp6(101, &[2; 100], ACK), tcp6(201, &[3; 50], PSH)];
        let out = run(&packets);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].1, Offload { kind: SegmentKind::Tcp, segment_size: 100, partial_checksum: true });
        assert_eq!(split(&out), packets);
    }

    #[test]
    fn datagrams_become_one_and_a_short_one_ends_it() {
        let packets = [udp6(&[1; 100]), udp6(&[2; 100]), udp6(&[3; 50]), udp6(&[4; 50])];
        let out = run(&packets);
        assert_eq!(out.len(), 2);
        assert_eq!(out[0].1, Offload { kind: SegmentKind::Udp, segment_size: 100, partial_checksum: true });
        assert_eq!(split(&out), packets);
    }

    #[test]
    fn what_the_kernel_keeps_apart_stays_apart() {
        let base = tcp6(1, &[1; 100], ACK);
        let next = tcp6(101, &[2; 100], ACK);
        let changed = |position: usize, value: u8| {
            let mut packet = next.clone();
            packet[position] = value;
            finish(&mut packet, 56);
            vec![base.clone(), packet]
        };
        apart(&changed(1, 0x30)); // ECN
        apart(&changed(3, 1)); // flow label
        apart(&changed(7, 63)); // hop limit
        apart(&changed(51, 10)); // acknowledgement
        apart(&changed(54, 1)); // window
        apart(&changed(53, 0x50)); // ECE
        apart(&[base.clone(), tcp6(102, &[2; 100], ACK)]); // hole
        apart(&[base.clone(), tcp6(101, &[2; 101], ACK)]); // larger
        apart(&[base.clone(), tcp6(101, &[], ACK)]); // bare acknowledgement
        apart(&[tcp6(1, &[1; 100], PSH), next.clone()]); // pushed
        apart(&[base.clone(), tcp6(101, &[2; 100], ACK | TCP_CWR)]);
        apart(&[base.clone(), tcp6(101, &[2; 100], ACK | TCP_URG)]);
        apart(&[base, tcp6(101, &[2; 100], ACK | TCP_RST)]);
    }

    #[test]
    fn wrong_checksums_are_neither_merged_nor_mended() {
        let mut bad = tcp6(101, &[2; 100], ACK);
        bad[56] ^= 1;
        apart(&[tcp6(1, &[1; 100], ACK), bad.clone(), tcp6(201, &[3; 100], ACK)]);
        bad = udp6(&[5; 10]);
        bad[46..48].fill(0);
        apart(&[bad.clone(), bad]);
    }

    #[test]
    fn a_short_segment_ends_its_super_segment() {
        let packets = [tcp6(1, &[1; 100], ACK), tcp6(101, &[2; 99], ACK), tcp6(200, &[3; 99], ACK)];
        let out = run(&packets);
        assert_eq!(out.len(), 2);
        assert_eq!(split(&out), packets);
    }

    #[test]
    fn the_largest_super_segment_fits() {
        let packets: Vec<_> = (0..60u32).map(|i| tcp6(1 + i * 1220, &[i as u8; 1220], ACK)).collect();
        let out = run(&packets);
        assert_eq!(out.len(), 2);
        assert!(out[0].0.len() <= MAX_LEN && out[0].0.len() > MAX_LEN - 1220);
        assert_eq!(split(&out), packets);
    }

    proptest! {
        /// Whatever arrives, splitting what comes out gives each flow's packets back in their order.
        #[test]
        fn merging_is_invisible(steps in proptest::collection::vec(
            (0u8..20, 0usize..4, 1usize..300, any::<bool>(), 0u32..30), 1..200)) {
            let mut sequence = [1u32; 20];
            let mut packets = Vec::new();
            for (flow, shape, size, push, jump) in steps {
                let next = &mut sequence[usize::from(flow)];
                if jump == 0 {
                    *next = next.wrapping_add(7);
                }
                let size = [100, 100, size, 0][shape];
                let mut packet = if flow % 3 == 0 {
                    udp6(&vec![flow; size])
                } else {
                    tcp6(*next, &vec![flow; size], if push { PSH } else { ACK })
                };
                *next = next.wrapping_add(size as u32);
                packet[39] = flow;
                let position = if packet[6] == TCP { 56 } else { 46 };
                finish(&mut packet, position);
                packets.push(packet);
            }
            let result = split(&run(&packets));
            prop_assert_eq!(result.len(), packets.len());
            for flow in 0..20u8 {
                let of = |all: &[Vec<u8>]| all.iter().filter(|p| p[39] == flow).cloned().collect::<Vec<_>>();
                prop_assert_eq!(of(&result), of(&packets));
            }
        }
    }
}
