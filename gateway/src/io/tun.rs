//! One queue of a TUN device, with the kernel's offloads where it has them.
//!
//! The descriptor may also be a SOCK_DGRAM or SOCK_SEQPACKET socket (one end of a socketpair): the framing is the same
//! (a 12-byte virtio header, then the packet), only the offload ioctls are left out. So everything above runs without
//! privileges.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::core::frame::{Offload, SegmentKind};
use crate::wire::virtio::{self, HEADER_LEN, Unusable};

const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// What the kernel does for this queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    pub checksum: bool,
    pub tcp: bool,
    /// Linux 6.2 and later, both directions: an older kernel refuses UDP super-segments on write as well.
    pub udp: bool,
}

impl Offloads {
    /// As the statistics name them.
    pub fn names(self) -> Vec<&'static str> {
        [("csum", self.checksum), ("tso", self.tcp), ("uso", self.udp)]
            .iter()
            .filter_map(|(name, on)| on.then_some(*name))
            .collect()
    }
}

/// What one read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// A packet of so many bytes at the front of the buffer.
    Packet(usize, Offload),
    /// A packet that cannot be used; it is gone.
    Unusable(Unusable),
    /// Nothing waits.
    Empty,
}

/// One queue, registered with the runtime of the worker that owns it.
#[derive(Debug)]
pub struct Device {
    fd: AsyncFd<OwnedFd>,
    offloads: Offloads,
}

impl Device {
    /// Takes a descriptor over. Must be called inside the runtime that will poll it.
    ///
    /// # Errors
    /// When the descriptor is neither a TUN queue with IFF_VNET_HDR nor a datagram-preserving Unix socket.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let offloads = if is_tun(fd.as_raw_fd())? { probe(fd.as_raw_fd())? } else { of_socket(fd.as_raw_fd())? };
        set_nonblocking(fd.as_raw_fd())?;
        // SAFETY: an OwnedFd keeps its descriptor open and returns the same one until it is dropped, after this.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Self { fd, offloads })
    }

    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Waits until a read may give something.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads one packet to the front of `buffer`, which should hold the largest super-segment.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        let mut header = [0; HEADER_LEN];
        let result = self.fd.try_io(Interest::READABLE, |fd| {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            // SAFETY: IoSliceMut has the layout of iovec, and both point to live, writable memory.
            let count = unsafe { libc::readv(fd.as_raw_fd(), parts.as_mut_ptr().cast(), 2) };
            usize::try_from(count).map_err(|_| io::Error::last_os_error())
        });
        match result {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) if count < HEADER_LEN => Ok(Read::Unusable(Unusable::Short)),
            Ok(count) => {
                let len = count - HEADER_LEN;
                Ok(match virtio::parse(&header, &mut buffer[..len]) {
                    Ok(offload) => Read::Packet(len, offload),
                    Err(why) => Read::Unusable(why),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Empty),
            Err(error) => Err(error),
        }
    }

    /// Whether a frame may be written whole.
    pub fn takes(&self, offload: Offload) -> bool {
        offload.kind != SegmentKind::Udp || self.offloads.udp
    }

    /// Writes one packet or super-segment. Never waits: what the kernel does not take at once is an error.
    pub fn write(&self, packet: &[u8], offload: Offload) -> io::Result<()> {
        let header = virtio::emit(packet, offload)
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, format!("{why:?}")))?;
        let parts = [IoSlice::new(&header), IoSlice::new(packet)];
        // SAFETY: IoSlice has the layout of iovec, and both point to live memory.
        let count = unsafe { libc::writev(self.fd.get_ref().as_raw_fd(), parts.as_ptr().cast(), 2) };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn is_tun(fd: RawFd) -> io::Result<bool> {
    // SAFETY: ifreq is plain data and large enough for what the kernel writes.
    let (result, flags) = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        let result = libc::ioctl(fd, TUNGETIFF, &mut request);
        (result, request.ifr_ifru.ifru_flags)
    };
    if result < 0 {
        return Ok(false);
    }
    if libc::c_int::from(flags) & libc::IFF_VNET_HDR == 0 {
        return Err(invalid("the TUN queue was opened without IFF_VNET_HDR"));
    }
    Ok(true)
}

fn probe(fd: RawFd) -> io::Result<Offloads> {
    let size = HEADER_LEN as libc::c_int;
    // SAFETY: the kernel reads one int.
    if unsafe { libc::ioctl(fd, TUNSETVNETHDRSZ, &size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the argument is passed by value.
    negotiate(|bits| match unsafe { libc::ioctl(fd, TUNSETOFFLOAD, libc::c_ulong::from(bits)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    })
}

/// Asks for the most and drops what the kernel refuses: USO came with 6.2, everything else is older than any kernel
/// this runs on but may be missing in a virtual environment.
///
/// # Errors
/// The last refusal, when not even switching everything off is possible.
fn negotiate(mut set: impl FnMut(libc::c_uint) -> io::Result<()>) -> io::Result<Offloads> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    let mut refusal = None;
    for (bits, offloads) in [
        (tcp | TUN_F_USO4 | TUN_F_USO6, Offloads { checksum: true, tcp: true, udp: true }),
        (tcp, Offloads { checksum: true, tcp: true, udp: false }),
        (TUN_F_CSUM, Offloads { checksum: true, tcp: false, udp: false }),
        (0, Offloads::default()),
    ] {
        match set(bits) {
            Ok(()) => return Ok(offloads),
            Err(error) => refusal = Some(error),
        }
    }
    Err(refusal.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}

fn of_socket(fd: RawFd) -> io::Result<Offloads> {
    let mut kind: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into an int.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &mut len) };
    if result < 0 || (kind != libc::SOCK_DGRAM && kind != libc::SOCK_SEQPACKET) {
        return Err(invalid("neither a TUN queue nor a datagram socket"));
    }
    Ok(Offloads { checksum: true, tcp: true, udp: true })
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Sets O_NONBLOCK.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain fcntl on a descriptor the caller owns.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::core::segments::samples::{checksum_is_right, udp6};
    use crate::io::host::HostWriter;

    /// A kernel that knows only the offloads in `known`.
    fn kernel(known: libc::c_uint) -> impl FnMut(libc::c_uint) -> io::Result<()> {
        move |bits| if bits & !known == 0 { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    #[test]
    fn refused_offloads_are_done_without() {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        for (known, names) in [
            (libc::c_uint::MAX, vec!["csum", "tso", "uso"]),
            (tcp, vec!["csum", "tso"]),
            (tcp | TUN_F_USO4, vec!["csum", "tso"]),
            (TUN_F_CSUM, vec!["csum"]),
            (0, vec![]),
        ] {
            assert_eq!(negotiate(kernel(known)).unwrap().names(), names, "{known:#x}");
        }
        let refuse = |_| Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(negotiate(refuse).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn what_the_queue_does_not_take_is_split_and_finished() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let (ours, theirs) = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
        let mut device = Device::new(theirs.into()).unwrap();
        device.offloads = negotiate(kernel(0)).unwrap();
        let mut writer = HostWriter::new(Rc::new(device), std::sync::Arc::default());
        let offload = Offload { kind: SegmentKind::Udp, segment_size: 1000, partial_checksum: true };
        writer.write_packet(&udp6(&[7; 2500]), offload);
        let mut lengths = Vec::new();
        ours.set_nonblocking(true).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        while let Ok(count) = ours.recv(&mut buffer) {
            // SAFETY: the kernel wrote this many bytes.
            let bytes: Vec<u8> = buffer[..count].iter().map(|byte| unsafe { byte.assume_init() }).collect();
            assert_eq!(bytes[..HEADER_LEN], [0; HEADER_LEN], "no offload is asked of the kernel");
            assert!(checksum_is_right(&bytes[HEADER_LEN..]));
            lengths.push(bytes.len() - HEADER_LEN - 48);
        }
        assert_eq!(lengths, [1000, 1000, 500]);
    }
}
