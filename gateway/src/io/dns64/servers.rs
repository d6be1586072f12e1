//! One attempt by UDP at one server: a socket of its own, so that its port is drawn anew each time and nothing else is heard
//! on it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Shell;

/// More than the payload offered, for servers that do not look at it.
pub(super) const DATAGRAM: usize = 4096;

/// Sends and listens until the engine cancels the attempt, which ends this task.
pub(super) async fn exchange(shell: Rc<Shell>, attempt: u64, server: SocketAddr, bytes: Vec<u8>) {
    if listen(&shell, attempt, server, &bytes).await.is_err() {
        shell.unreachable(attempt);
    }
}

async fn listen(shell: &Rc<Shell>, attempt: u64, server: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Port 0: the kernel draws one at random and leaves out the reserved ones, which belong to NAT64.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    ignore_path_mtu(&socket);
    // The kernel then drops what comes from elsewhere, and believes only errors about this very pair of ports.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    loop {
        // A closed port makes the socket ready with an error and nothing to read.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        let which = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
        let received = socket.try_io(which, || receive(&socket, &mut *shell.datagram.borrow_mut()));
        let length = match received {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        // Its own copy: what follows may lead to other attempts.
        let answer = shell.datagram.borrow()[..length].to_vec();
        shell.response(attempt, server, &answer);
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length into it.
    let length =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Path MTU messages are easily forged, and make datagrams come in fragments, which are easily forged as well. Everything sent
/// here fits the smallest IPv6 link.
pub(super) fn ignore_path_mtu(socket: &impl AsFd) {
    let fd = socket.as_fd().as_raw_fd();
    for (level, option, value) in [
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
    ] {
        // SAFETY: the value is an int of the length named. A socket of the other family refuses it, which is meant.
        unsafe {
            libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of_val(&value) as libc::socklen_t)
        };
    }
}
