//! Packets put together from decisions, checksums right unless damaged afterwards.

use super::input::Input;
use super::oracle;
use crate::core::frame::{Frame, HEADROOM, Offload, SegmentKind};

/// The fields of a packet to build; addresses of 4 or 16 bytes decide its version.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: Vec<u8>,
    pub destination: Vec<u8>,
    pub protocol: u8,
    pub class: u8,
    pub hops: u8,
    /// IPv4: options, padded here. IPv6: extension headers, the first of type `extension`.
    pub extra: Vec<u8>,
    pub extension: u8,
    /// Identification and, in bytes and flag, the fragment's place.
    pub fragment: Option<(u32, usize, bool)>,
    pub dont_fragment: bool,
}

impl Packet {
    pub fn new(source: &[u8], destination: &[u8], protocol: u8) -> Self {
        Self {
            source: source.to_vec(),
            destination: destination.to_vec(),
            protocol,
            class: 0,
            hops: 64,
            extra: Vec::new(),
            extension: 0,
            fragment: None,
            dont_fragment: true,
        }
    }

    /// Lets the input choose the unusual parts.
    pub fn vary(mut self, input: &mut Input<'_>) -> Self {
        let flags = input.byte();
        if flags & 1 != 0 {
            self.class = input.byte();
        }
        if flags & 2 != 0 {
            self.hops = input.byte();
        }
        if flags & 4 != 0 {
            self.dont_fragment = false;
        }
        if flags & 8 != 0 {
            if self.source.len() == 4 {
                self.extra = input.take(usize::from(flags >> 4) * 4 % 44).to_vec();
                self.extra.resize(self.extra.len().next_multiple_of(4), 0);
            } else {
                self.extension = input.of(&[0, 43, 60]);
                self.extra = vec![self.protocol, 0];
                self.extra.extend(input.take(6));
                self.extra.resize(8, 0);
            }
        }
        self
    }

    /// The whole packet with header and transport checksums.
    pub fn build(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.raw(payload);
        if self.fragment.is_none() {
            oracle::fill_checksum(&mut packet, false);
        }
        packet
    }

    /// The packet with `payload` as it is.
    pub fn raw(&self, payload: &[u8]) -> Vec<u8> {
        if self.source.len() == 4 { self.raw_v4(payload) } else { self.raw_v6(payload) }
    }

    fn raw_v4(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.extra.len();
        let (id, offset, more) = self.fragment.unwrap_or((0x4321, 0, false));
        let field = (offset / 8) as u16 | u16::from(more) << 13 | u16::from(self.dont_fragment) << 14;
        let mut packet = vec![0x40 | (header / 4) as u8, self.class];
        packet.extend(((header + payload.len()) as u16).to_be_bytes());
        packet.extend((id as u16).to_be_bytes());
        packet.extend(field.to_be_bytes());
        packet.extend([self.hops, self.protocol, 0, 0]);
        packet.extend(&self.source);
        packet.extend(&self.destination);
        packet.extend(&self.extra);
        let sum = oracle::checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn raw_v6(&self, payload: &[u8]) -> Vec<u8> {
        let mut extra = self.extra.clone();
        let mut first = if extra.is_empty() { self.protocol } else { self.extension };
        if let Some((id, offset, more)) = self.fragment {
            let mut header = vec![first, 0];
            header.extend((offset as u16 & 0xfff8 | u16::from(more)).to_be_bytes());
            header.extend(id.to_be_bytes());
            header.extend(extra);
            (extra, first) = (header, 44);
        }
        let mut packet = vec![0x60 | self.class >> 4, self.class << 4, 0, 7];
        packet.extend(((extra.len() + payload.len()) as u16).to_be_bytes());
        packet.extend([first, self.hops]);
        packet.extend(&self.source);
        packet.extend(&self.destination);
        packet.extend(extra);
        packet.extend(payload);
        packet
    }
}

pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    out.extend((data.len() as u16 + 8).to_be_bytes());
    out.extend([0, 0]);
    out.extend(data);
    out
}

pub fn tcp(source: u16, destination: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    out.extend([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    out.extend(data);
    out
}

pub fn icmp(kind: u8, code: u8, word: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend(word.to_be_bytes());
    out.extend(data);
    out
}

/// Data of a length that the input chooses: mostly short, sometimes up to a jumbo packet.
pub fn data(input: &mut Input<'_>) -> Vec<u8> {
    match input.choice(4) {
        0 => Vec::new(),
        1 => input.piece().to_vec(),
        2 => vec![input.byte(); usize::from(input.word() % 1600)],
        _ => vec![input.byte(); usize::from(input.word() % 9000)],
    }
}

/// Damages a packet in up to three places, or cuts it short.
pub fn damage(input: &mut Input<'_>, packet: &mut Vec<u8>) {
    for _ in 0..input.choice(3) {
        let at = usize::from(input.word()) % packet.len().max(1);
        let value = input.byte();
        if let Some(byte) = packet.get_mut(at) {
            *byte = value;
        }
    }
    if input.byte() & 7 == 7 {
        packet.truncate(usize::from(input.word()) % (packet.len() + 1));
    }
}

/// What is left undone on a packet: for TCP and UDP, a super-segment now and then.
pub fn offload(input: &mut Input<'_>, packet: &mut [u8]) -> Offload {
    let choice = input.byte();
    if choice & 3 != 3 {
        return Offload::default();
    }
    let Some(seen) = oracle::look(packet) else { return Offload::default() };
    let headers = match seen.protocol {
        6 => 20,
        17 => 8,
        _ => return Offload::default(),
    };
    if seen.fragment.is_some() || seen.extended || seen.payload.len() < headers {
        return Offload::default();
    }
    let data = seen.payload.len() - headers;
    let kind = if seen.protocol == 6 { SegmentKind::Tcp } else { SegmentKind::Udp };
    oracle::fill_checksum(packet, true);
    let segment_size = 1 + input.word() % 1440;
    if choice & 4 == 0 || data <= usize::from(segment_size) {
        return Offload { partial_checksum: true, ..Offload::default() };
    }
    Offload { kind, segment_size, partial_checksum: true }
}

/// Runs `work` on a frame that holds the packet with room before and behind it; returns what the frame holds then.
pub fn with_frame<T>(packet: &[u8], offload: Offload, work: impl FnOnce(&mut Frame<'_>) -> T) -> (T, Vec<u8>, Offload) {
    let mut buffer = vec![0; HEADROOM + packet.len() + 1500];
    buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
    let mut frame = Frame::new(&mut buffer, HEADROOM, HEADROOM + packet.len(), offload);
    let outcome = work(&mut frame);
    (outcome, frame.bytes().to_vec(), frame.offload)
}
