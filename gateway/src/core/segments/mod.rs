//! Super-segments: many packets of one flow handled as one, by the kernel's own rules (GSO and GRO).

pub mod coalesce;
#[cfg(test)]
pub(crate) mod samples;
pub mod split;

/// The one's complement sum of `bytes`.
pub fn sum(bytes: &[u8]) -> u64 {
    u64::from(crate::wire::checksum::sum(bytes))
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
