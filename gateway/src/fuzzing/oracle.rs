//! A second opinion on packets: lengths, headers and checksums read and computed here without the code under test.
//!
//! Sums are plain: 16-bit words added up and taken modulo 65,535, in which a right checksum leaves no remainder.

/// What a packet's transport checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Good,
    /// Not good, but the uncomplemented sum of the pseudo header, as CHECKSUM_PARTIAL has it.
    Partial,
    Bad,
    /// UDP over IPv4 without one.
    Absent,
    /// A fragment, another protocol, or a transport header that is cut off.
    Unknown,
}

/// A packet as read here.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub version: u8,
    pub hops: u8,
    pub source: &'a [u8],
    pub destination: &'a [u8],
    pub protocol: u8,
    /// Transport header and data, or the fragment's data.
    pub payload: &'a [u8],
    /// Offset in bytes, more fragments.
    pub fragment: Option<(usize, bool)>,
    /// Of the IPv4 header; true for IPv6.
    pub header_sum: bool,
    /// An IPv4 header with options or an IPv6 packet with extension headers other than Fragment.
    pub extended: bool,
    pub sum: Sum,
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) * 256 + usize::from(bytes[at + 1])
}

/// The words of all parts, each padded to whole words, added up.
pub fn total(parts: &[&[u8]]) -> u64 {
    let words = |part: &&[u8]| {
        part.chunks(2).map(|pair| u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0))).sum::<u64>()
    };
    parts.iter().map(words).sum()
}

/// The value that makes a sum without remainder, for a field that is zero so far.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    65_535 - (total(parts) % 65_535) as u16
}

/// Reads a packet whose length fields are exactly its length; none for anything else.
pub fn look(packet: &[u8]) -> Option<Seen<'_>> {
    let mut seen = match packet.first()? >> 4 {
        4 => look_v4(packet)?,
        6 => look_v6(packet)?,
        _ => return None,
    };
    seen.sum = transport_sum(&seen);
    Some(seen)
}

fn look_v4(packet: &[u8]) -> Option<Seen<'_>> {
    let header = usize::from(packet[0] % 16) * 4;
    if header < 20 || packet.len() < header || word(packet, 2) != packet.len() {
        return None;
    }
    let field = word(packet, 6);
    let (offset, more) = (field % 8192 * 8, field / 8192 % 2 == 1);
    Some(Seen {
        version: 4,
        hops: packet[8],
        source: &packet[12..16],
        destination: &packet[16..20],
        protocol: packet[9],
        payload: &packet[header..],
        fragment: (offset > 0 || more).then_some((offset, more)),
        header_sum: total(&[&packet[..header]]).is_multiple_of(65_535),
        extended: header > 20,
        sum: Sum::Unknown,
    })
}

fn look_v6(packet: &[u8]) -> Option<Seen<'_>> {
    if packet.len() < 40 || word(packet, 4) + 40 != packet.len() {
        return None;
    }
    let (mut at, mut protocol, mut fragment, mut extended) = (40, packet[6], None, false);
    loop {
        let later = fragment.is_some_and(|(offset, _)| offset > 0);
        match protocol {
            0 | 43 | 60 if !later => {
                extended = true;
                let length = 8 + 8 * usize::from(*packet.get(at + 1)?);
                protocol = packet[at];
                at += length;
            }
            44 if !later && fragment.is_none() => {
                if packet.len() < at + 8 {
                    return None;
                }
                let field = word(packet, at + 2);
                fragment = Some((field / 8 * 8, field % 2 == 1));
                protocol = packet[at];
                at += 8;
            }
            _ => break,
        }
        if at > packet.len() {
            return None;
        }
    }
    Some(Seen {
        version: 6,
        hops: packet[7],
        source: &packet[8..24],
        destination: &packet[24..40],
        protocol,
        payload: &packet[at..],
        // An atomic fragment (RFC 6946) is a whole packet.
        fragment: fragment.filter(|&(offset, more)| offset > 0 || more),
        header_sum: true,
        extended,
        sum: Sum::Unknown,
    })
}

/// The pseudo header of a transport part of `length` bytes.
fn pseudo(seen: &Seen<'_>, length: usize) -> Vec<u8> {
    if seen.version == 4 && seen.protocol == 1 {
        return Vec::new();
    }
    let mut bytes = [seen.source, seen.destination].concat();
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, seen.protocol]);
    bytes
}

/// Where the checksum field is.
fn field_of(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(16),
        17 => Some(6),
        1 | 58 => Some(2),
        _ => None,
    }
}

fn transport_sum(seen: &Seen<'_>) -> Sum {
    let Some(field) = field_of(seen.protocol) else { return Sum::Unknown };
    let foreign = if seen.version == 4 { 58 } else { 1 };
    if seen.fragment.is_some() || seen.protocol == foreign || seen.payload.len() < field + 2 {
        return Sum::Unknown;
    }
    let pseudo = pseudo(seen, seen.payload.len());
    let value = word(seen.payload, field);
    if seen.protocol == 17 && value == 0 {
        return if seen.version == 4 { Sum::Absent } else { Sum::Bad };
    }
    if total(&[&pseudo, seen.payload]).is_multiple_of(65_535) {
        Sum::Good
    } else if !pseudo.is_empty() && (total(&[&pseudo]) % 65_535) as usize == value % 65_535 {
        Sum::Partial
    } else {
        Sum::Bad
    }
}

/// Writes the transport checksum of a whole packet, complete or only of the pseudo header. A packet that has none
/// stays as it is.
pub fn fill_checksum(packet: &mut [u8], partial: bool) {
    let Some(seen) = look(packet) else { return };
    let Some(field) = field_of(seen.protocol).filter(|field| seen.payload.len() >= field + 2) else { return };
    let at = packet.len() - seen.payload.len() + field;
    let pseudo = pseudo(&seen, seen.payload.len());
    let protocol = seen.protocol;
    packet[at..at + 2].fill(0);
    let payload = &packet[at - field..];
    let value = match partial {
        true => (total(&[&pseudo]) % 65_535) as u16,
        false => checksum(&[&pseudo, payload]),
    };
    // 65,535 and 0 are the same number; UDP means "none" by the latter, and ICMP's emitters write the latter.
    let value = if value == 65_535 && protocol != 17 { 0 } else { value };
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Asserts what every packet that is sent must be: lengths right, the IPv4 header sum right.
pub fn well_formed<'a>(packet: &'a [u8], what: &str) -> Seen<'a> {
    let seen = look(packet).unwrap_or_else(|| panic!("{what}: lengths are wrong in {packet:02x?}"));
    assert!(seen.header_sum, "{what}: IPv4 header checksum in {packet:02x?}");
    seen
}
