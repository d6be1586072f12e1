//! Opens a TUN device as the gateway's agent does.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// A queue of the TUN device `name`, which comes into being and goes with the descriptor.
///
/// # Errors
/// Without CAP_NET_ADMIN, when the device is busy, or when the name is too long.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    // SAFETY: ifreq is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: longer than a device's name can be")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: a path that ends in a zero byte; a descriptor that nobody else owns.
    let fd = unsafe {
        match libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK) {
            -1 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    // SAFETY: the kernel reads one ifreq.
    match unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(fd),
    }
}
