//! Super-segments: many packets of one flow handled as one, by the kernel's own rules (GSO and GRO).

pub mod coalesce;
#[cfg(test)]
pub(crate) mod samples;
pub mod split;

/// The one's complement sum of `bytes` as big-endian 16-bit words, not folded.
///
/// Words are added in the machine's order, eight bytes a step, and swapped once at the end (RFC 1071 section 2 (B)).
pub fn sum(bytes: &[u8]) -> u64 {
    let mut low: u64 = 0;
    let mut high: u64 = 0;
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for word in block.as_chunks::<8>().0 {
            let word = u64::from_ne_bytes(*word);
            low += word & 0xffff_ffff;
            high += word >> 32;
        }
    }
    let mut words = blocks.remainder().chunks_exact(2);
    for word in &mut words {
        low += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        low += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u64::from(u16::from_be(fold(u64::from(fold(low)) + u64::from(fold(high)))))
}

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo header of the packet's addresses (RFC 8200 section 8.1, RFC 793 section 3.1).
///
/// `len` is that of the transport header and payload in bytes.
pub fn pseudo_sum(packet: &[u8], len: usize, protocol: u8) -> u64 {
    let addresses = if packet[0] >> 4 == 6 { sum(&packet[8..40]) } else { sum(&packet[12..20]) };
    addresses + len as u64 + u64::from(protocol)
}
