//! Datagrams by the dozen: one system call receives many queries, one sends their answers.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

/// The most taken by one call.
pub const BATCH: usize = 32;
/// The largest query read: a name, an OPT record and its options fit many times.
pub const MAX_QUERY: usize = 4096;

/// Room for the queries of one call and their answers, used again and again.
pub struct Batch {
    queries: Vec<[u8; MAX_QUERY]>,
    lengths: [usize; BATCH],
    addresses: [libc::sockaddr_storage; BATCH],
    address_lengths: [libc::socklen_t; BATCH],
    answers: Vec<Vec<u8>>,
    /// Which answers are to be sent.
    ready: Vec<usize>,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            queries: vec![[0; MAX_QUERY]; BATCH],
            lengths: [0; BATCH],
            // SAFETY: all zeroes is an address of no family.
            addresses: [unsafe { zeroed() }; BATCH],
            address_lengths: [0; BATCH],
            answers: vec![Vec::new(); BATCH],
            ready: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what is there, without waiting, and returns how many datagrams that were.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        self.ready.clear();
        // SAFETY: both structures are valid when all zeroes; every pointer set below outlives the call.
        let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { (zeroed(), zeroed()) };
        for index in 0..BATCH {
            parts[index] = libc::iovec { iov_base: self.queries[index].as_mut_ptr().cast(), iov_len: MAX_QUERY };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
        }
        // SAFETY: `headers` has BATCH elements, and each names buffers of the lengths it says.
        let count = unsafe {
            libc::recvmmsg(socket, headers.as_mut_ptr(), BATCH as u32, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in headers[..count].iter().enumerate() {
            self.lengths[index] = header.msg_len as usize;
            self.address_lengths[index] = header.msg_hdr.msg_namelen;
        }
        Ok(count)
    }

    /// A query received, who sent it, and room for its answer.
    pub fn query(&mut self, index: usize) -> Option<(&[u8], SocketAddr, &mut Vec<u8>)> {
        let address = address(&self.addresses[index])?;
        Some((&self.queries[index][..self.lengths[index]], address, &mut self.answers[index]))
    }

    /// The answer to a query stands in its room.
    pub fn answered(&mut self, index: usize) {
        self.ready.push(index);
    }

    /// Sends the answers and returns how many the kernel did not take: a client whose queries come faster than its line takes
    /// answers asks again.
    pub fn send(&mut self, socket: RawFd) -> u64 {
        // SAFETY: as in `receive`.
        let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { (zeroed(), zeroed()) };
        for (slot, &index) in self.ready.iter().enumerate() {
            let answer = &mut self.answers[index];
            parts[slot] = libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: answer.len() };
            let header = &mut headers[slot].msg_hdr;
            header.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_namelen = self.address_lengths[index];
            header.msg_iov = &raw mut parts[slot];
            header.msg_iovlen = 1;
        }
        let (mut done, mut refused) = (0, 0);
        while done < self.ready.len() {
            let rest = &mut headers[done..self.ready.len()];
            // SAFETY: as in `receive`; the kernel only reads.
            let sent = unsafe { libc::sendmmsg(socket, rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT) };
            match usize::try_from(sent) {
                Ok(sent) => done += sent,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // This one; those behind it go to other clients.
                    refused += 1;
                    done += 1;
                }
            }
        }
        self.ready.clear();
        refused
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is what the kernel wrote; the storage is larger and aligned for it.
            let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = u32::from_be(address.sin_addr.s_addr);
            Some(SocketAddrV4::new(ip.into(), u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let (port, scope) = (u16::from_be(address.sin6_port), address.sin6_scope_id);
            Some(SocketAddrV6::new(address.sin6_addr.s6_addr.into(), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn each_answer_goes_to_its_own_client() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(address).expect("a port");
            let clients: Vec<UdpSocket> = (0..40).map(|_| UdpSocket::bind(address).expect("a port")).collect();
            let to = server.local_addr().expect("an address");
            for (index, client) in clients.iter().enumerate() {
                client.send_to(&[index as u8; 3], to).expect("sends");
            }
            let mut batch = Batch::new();
            let mut left = clients.len();
            while left > 0 {
                let count = batch.receive(server.as_raw_fd()).expect("queries");
                for index in 0..count {
                    let (query, from, answer) = batch.query(index).expect("an address");
                    assert_eq!(from, clients[usize::from(query[0])].local_addr().expect("an address"));
                    answer.clear();
                    answer.extend_from_slice(query);
                    // Every other one stays without an answer.
                    if query[0] % 2 == 0 {
                        batch.answered(index);
                    }
                }
                assert_eq!(batch.send(server.as_raw_fd()), 0);
                left -= count;
            }
            for (index, client) in clients.iter().enumerate() {
                client.set_nonblocking(true).expect("set");
                let mut buffer = [0; 8];
                match client.recv(&mut buffer) {
                    Ok(length) => assert_eq!((index % 2, &buffer[..length]), (0, &[index as u8; 3][..])),
                    Err(_) => assert_eq!(index % 2, 1),
                }
            }
            let error = batch.receive(server.as_raw_fd()).expect_err("nothing left");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
