//! One file per wire format: views and emitters, no I/O and no state.

pub mod checksum;
pub mod icmpv4;
pub mod icmpv6;
pub mod iphttps_http;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod offload;
pub mod segment_header;
pub mod tcp;
pub mod udp;
pub mod virtio;

/// Why bytes are not a packet of the format asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The buffer ends inside a header.
    Truncated,
    /// The version nibble is not the one of the format.
    Version,
    /// A length field contradicts the buffer or the smallest header.
    Length,
    /// Extension headers that cannot be walked: too many, or not in the packet.
    ExtensionHeaders,
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
