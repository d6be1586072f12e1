//! DNS64 on and off while the gateway runs: the sockets outlive the service.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::inspect::Query;
use super::{Flush, Handle, ShellStats, spawn};
use crate::core::dns64::config::Config;

/// The sockets that DNS64 serves on whenever it is on.
pub struct Switch {
    /// UDP and TCP; none after `close`.
    sockets: Mutex<[Vec<OwnedFd>; 2]>,
    running: Mutex<Option<Running>>,
}

struct Running {
    handle: Arc<Handle>,
    config: Config,
}

impl Switch {
    /// Keeps the sockets; DNS64 is off.
    pub fn new(udp: Vec<OwnedFd>, tcp: Vec<OwnedFd>) -> Self {
        Self { sockets: Mutex::new([udp, tcp]), running: Mutex::new(None) }
    }

    /// Whether it can be switched on to any use.
    pub fn has_sockets(&self) -> bool {
        self.sockets.lock().iter().any(|sockets| !sockets.is_empty())
    }

    /// Switches on, changes, or with None switches off.
    ///
    /// # Errors
    /// What [`spawn`] and [`Handle::configure`] refuse.
    pub fn configure(&self, config: Option<Config>) -> io::Result<()> {
        let mut running = self.running.lock();
        match (config, running.as_mut()) {
            (Some(config), Some(now)) => {
                now.handle.configure(config.clone())?;
                now.config = config;
            }
            (Some(config), None) => *running = Some(self.begin(config)?),
            // Closed whoever else holds it: a query in progress ends.
            (None, _) => running.take().into_iter().for_each(|former| former.handle.close()),
        }
        Ok(())
    }

    /// Serves on other sockets from now on; what was cached and questions on their way are lost.
    ///
    /// # Errors
    /// What [`spawn`] refuses; it is off then.
    pub fn replace(&self, udp: Vec<OwnedFd>, tcp: Vec<OwnedFd>) -> io::Result<()> {
        let mut running = self.running.lock();
        let former = running.take();
        if let Some(former) = &former {
            former.handle.close();
        }
        *self.sockets.lock() = [udp, tcp];
        if let Some(former) = former.filter(|_| self.has_sockets()) {
            *running = Some(self.begin(former.config)?);
        }
        Ok(())
    }

    fn begin(&self, config: Config) -> io::Result<Running> {
        let copy = |fds: &[OwnedFd]| fds.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
        let [udp, tcp] = &*self.sockets.lock();
        discard(udp);
        Ok(Running { handle: Arc::new(spawn(config.clone(), copy(udp)?, copy(tcp)?)?), config })
    }

    /// Forgets cached answers and returns how many there were.
    ///
    /// # Errors
    /// `NotConnected` while it is off.
    pub fn flush(&self, what: Flush) -> io::Result<usize> {
        self.handle()?.flush(what)
    }

    /// Asks as a client would.
    ///
    /// # Errors
    /// `NotConnected` while it is off, and what [`Handle::query`] says.
    pub fn query(&self, query: Query) -> io::Result<Value> {
        // Not under the lock: the answer may take seconds.
        let handle = self.handle()?;
        handle.query(query)
    }

    fn handle(&self) -> io::Result<Arc<Handle>> {
        self.running.lock().as_ref().map(|now| now.handle.clone()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotConnected,
                "DNS64 is off; enable dns64.state and name its upstream servers",
            )
        })
    }

    /// None while it is off.
    pub fn stats(&self) -> Option<ShellStats> {
        self.handle().and_then(|handle| handle.stats()).ok()
    }

    /// Stops the service and closes the sockets.
    pub fn close(&self) {
        self.running.lock().take().into_iter().for_each(|former| former.handle.close());
        *self.sockets.lock() = Default::default();
    }
}

/// Throws away what came while nobody read: whoever asked has given up or asks again.
fn discard(sockets: &[OwnedFd]) {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1];
    for socket in sockets {
        let socket = socket2::SockRef::from(socket);
        // Bounded, as questions may come faster than they are thrown away; an error is told by the service.
        for _ in 0..10_000 {
            if socket.recv_with_flags(&mut buffer, libc::MSG_DONTWAIT).is_err() {
                break;
            }
        }
    }
}
