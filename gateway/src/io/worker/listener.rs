//! Accepting connections, never more at a time than are being set up, and never at the cost of those that are up.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::Worker;
use super::session::Session;
use crate::core::impossible::{Impossible, happened};
use crate::core::iphttps::{CloseReason, gives_way};
use crate::io::gateway::Shared;
use crate::io::tls::Tls;
use crate::io::tls::identity::peer_text;
use crate::io::transport::{Transport, tune};
use crate::io::vital::Vital;

/// Connections accepted before others get their turn.
const BATCH: usize = 16;
/// Wait after the system refused a connection (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Takes a listening socket over, and sees to it that connections have their options from their beginning.
pub(super) fn adopt(fd: OwnedFd) -> io::Result<TcpListener> {
    crate::io::tun::set_nonblocking(fd.as_raw_fd())?;
    let listener = std::net::TcpListener::from(fd);
    listener.local_addr()?;
    tune(&SockRef::from(&listener))?;
    TcpListener::from_std(listener)
}

/// Whether a connection waits to be accepted.
fn is_waited_for(listener: &TcpListener) -> bool {
    let mut ready = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the kernel reads and writes one live value.
    unsafe { libc::poll(&mut ready, 1, 0) != 0 }
}

/// Forgets a connection when its task ends, in whatever way: a defect met by one peer must not leave its place in a
/// table taken for ever.
struct Leaving {
    worker: Rc<Worker>,
    session: Rc<Session>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Self { worker, session } = self;
        if std::thread::panicking() {
            happened(Impossible::Panic);
            worker.shared.events.warn("DEFECT", "the task of a connection panicked; the connection is closed");
            worker.begin_anew();
        }
        worker.end_of_handshake(session);
        worker.went_down(session, CloseReason::PeerClosed);
        worker.shared.forget_requests(session.id);
        worker.sessions.borrow_mut().remove(&session.id);
        worker.handle().counters.connections_ended.add(1);
    }
}

impl Worker {
    pub(super) async fn listen(self: Rc<Self>, listener: TcpListener) {
        let _vital = Vital("takes connections");
        let name: Rc<str> = listener.local_addr().map(peer_text).unwrap_or_default().into();
        // Connections that waited when we came do not have its options. They come first.
        let mut earlier = is_waited_for(&listener);
        loop {
            for _ in 0..BATCH {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        if earlier {
                            // Refused by a connection that is gone already, which shows by itself.
                            let _ = tune(&SockRef::from(&stream));
                            earlier = is_waited_for(&listener);
                        }
                        // Afterwards, so that nobody gives way for a newcomer who is not there.
                        self.room_for_handshake(peer.ip()).await;
                        self.welcome(stream, peer, &name);
                    }
                    Err(error) => self.accept_failed(&error).await,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits where trying again at once would fail again. Nobody is refused: connections stay in the kernel's queue.
    async fn accept_failed(&self, error: &io::Error) {
        let counters = &self.handle().counters;
        counters.accept_errors.add(1);
        match error.raw_os_error() {
            // The peer went away while it waited: nothing of ours is wrong.
            Some(libc::ECONNABORTED | libc::EPROTO | libc::ECONNRESET) => return,
            Some(libc::EMFILE | libc::ENFILE) => {
                counters.descriptors_exhausted.add(1);
                self.shared.events.warn(
                    "DESCRIPTORS",
                    &format!(
                        "no descriptor is left for a new connection ({error}): whoever dials waits until others leave; \
                         raise LimitNOFILE of the gateway's unit to ip_https.max_clients and some thousand more"
                    ),
                );
            }
            _ => self.shared.events.warn("ACCEPT", &format!("a connection could not be accepted: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn welcome(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, listener: &Rc<str>) {
        self.handle().counters.accepted.add(1);
        let live = self.shared.live();
        let tls = Tls::server(live.tls.rustls.clone());
        let Shared { clock, queues, .. } = &*self.shared;
        let queues = queues.counted_by(&self.handle().counters);
        let queue_bytes = live.config.iphttps.queue_bytes;
        // Refused by the library for what the configuration lacks, which was checked when it was taken.
        let Ok(tls) = tls else { return };
        let transport = Transport::new(stream, tls, *clock, queues, queue_bytes);
        let id = self.shared.new_session(self.index);
        let session = Rc::new(Session::new(id, peer, transport, self.shared.clock.now()));
        if self.sessions.borrow_mut().insert(id, session.clone()).is_some() {
            happened(Impossible::SessionTwice);
        }
        self.handle().counters.connections_begun.add(1);
        self.handshakes.borrow_mut().insert(id, session.clone());
        let worker = self.clone();
        let listener = listener.clone();
        tokio::task::spawn_local(async move {
            let _leaving = Leaving { worker: worker.clone(), session: session.clone() };
            worker.serve(session, listener).await;
        });
    }

    /// Somebody got through: what it took, averaged over the last few.
    pub(super) fn got_through(&self, session: &Session) {
        let took = self.shared.clock.now().since(session.place().began);
        self.typical.set((self.typical.get() * 7 + took) / 8);
    }

    pub(super) fn end_of_handshake(&self, session: &Session) {
        if self.handshakes.borrow_mut().remove(&session.id).is_some() {
            self.handshake_ended.notify_one();
        }
    }

    /// Waits until one more connection may be set up, which somebody may have to give way for.
    async fn room_for_handshake(&self, newcomer: IpAddr) {
        let mut waited = false;
        loop {
            let limit = self.shared.live().config.iphttps.max_handshakes.div_ceil(self.shared.workers.len());
            if self.handshakes.borrow().len() < limit {
                return;
            }
            if !std::mem::replace(&mut waited, true) {
                self.handle().counters.admission_waits.add(1);
            }
            let now = self.shared.clock.now();
            let victim = {
                let handshakes = self.handshakes.borrow();
                let victim =
                    gives_way(now, newcomer, self.typical.get(), handshakes.values().map(|session| session.place()));
                victim.and_then(|id| handshakes.get(&id).cloned())
            };
            match victim {
                Some(session) => {
                    self.handle().counters.handshakes_evicted.add(1);
                    session.close(CloseReason::HandshakeTimeout);
                    self.end_of_handshake(&session);
                }
                None => {
                    let ended = self.handshake_ended.notified();
                    // The time limit is what makes it look again for who should give way.
                    let _ = tokio::time::timeout(PAUSE, ended).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The options that a dead peer is noticed by, and those that latency depends on.
    fn options(socket: &SockRef<'_>) -> (bool, bool, Duration, Duration, u32, Option<Duration>, u32) {
        (
            socket.tcp_nodelay().unwrap(),
            socket.keepalive().unwrap(),
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
            socket.tcp_user_timeout().unwrap(),
            socket.tcp_notsent_lowat().unwrap(),
        )
    }

    #[tokio::test]
    async fn connections_have_the_options_of_their_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let early = std::net::TcpStream::connect(address).unwrap();
        let listener = adopt(listener.into()).unwrap();
        assert!(is_waited_for(&listener), "the one that came before");
        let (accepted_early, _) = listener.accept().await.unwrap();
        assert!(!is_waited_for(&listener));
        let late = std::net::TcpStream::connect(address).unwrap();
        let (accepted_late, _) = listener.accept().await.unwrap();
        tune(&SockRef::from(&early)).unwrap();
        let expected = options(&SockRef::from(&early));
        assert_ne!(options(&SockRef::from(&late)), expected);
        assert_eq!(options(&SockRef::from(&accepted_late)), expected);
        // This one has to be told.
        assert_ne!(options(&SockRef::from(&accepted_early)), expected);
    }
}
