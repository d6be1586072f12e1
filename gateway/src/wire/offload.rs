//! What is left undone on a packet, in our words; virtio and segment headers say it in theirs.

/// What a super-segment is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SegmentKind {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP: segments differ in sequence number and flags (kernel: GSO_TCPV4, GSO_TCPV6).
    Tcp,
    /// UDP: datagrams of one flow (kernel: GSO_UDP_L4).
    Udp,
}

/// The work that was left undone on a frame because somebody later can do it for less: segmentation and checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    pub kind: SegmentKind,
    /// Transport payload bytes of each segment but the last; 0 for an ordinary packet.
    pub segment_size: u16,
    /// The transport checksum field holds only the folded, uncomplemented pseudo-header sum (CHECKSUM_PARTIAL).
    /// Always true for a super-segment.
    pub partial_checksum: bool,
}
