//! The intranet's end of exchanges: answers each datagram with as many as it asks for.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::traffic::{HEADER, MAGIC};

/// The kernel's bound on segments of one send.
const MAX_SEGMENTS: usize = 64;
const BUFFER: usize = 16 << 20;

/// Serves until the process is ended.
pub fn respond(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Not all of it when the system allows less; bursts are lost and counted then.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    println!("{{\"listening\":\"{}\"}}", socket.local_addr()?);
    let mut request = vec![0; 65_536];
    let mut reply = vec![0; 65_536];
    loop {
        let (count, peer) = match socket.recv_from(&mut request) {
            Ok(received) => received,
            // An earlier answer met a closed port.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let request = &request[..count];
        if count < HEADER || request[..4] != MAGIC {
            continue;
        }
        let short = |at: usize| usize::from(u16::from_be_bytes([request[at], request[at + 1]]));
        let (mut replies, size) = (short(12), short(14).clamp(HEADER, 1400));
        while replies > 0 {
            let count = replies.min(MAX_SEGMENTS).min(60_000 / size);
            for piece in reply[..count * size].chunks_mut(size) {
                piece[..HEADER].copy_from_slice(&request[..HEADER]);
            }
            // A full queue somewhere on the way is a loss like any other; the client counts it.
            let _ = send_segments(&socket, &reply[..count * size], size, peer);
            replies -= count;
        }
    }
}

/// One system call for several datagrams of `size` bytes.
fn send_segments(socket: &UdpSocket, bytes: &[u8], size: usize, peer: SocketAddr) -> io::Result<()> {
    let peer = socket2::SockAddr::from(peer);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // Aligned as the kernel wants it, and large enough for one message of two bytes.
    let mut control = [0u64; 4];
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = peer.as_ptr().cast_mut().cast();
    message.msg_namelen = peer.len();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as _;
    // SAFETY: the control buffer has room for this one message, which stays alive until the call has returned.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(2) as _;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(size as u16);
        if libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
