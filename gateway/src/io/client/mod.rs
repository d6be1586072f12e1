//! The remote computer's end: one TUN queue, one connection at a time, dialled again for as long as it is wanted.

pub mod dial;
mod link;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

use super::config::{ClientConfig, Refused, Url};
use super::events::Events;
use super::tls::setup;
use super::vital::Vital;
use crate::core::iphttps::{ClientConfig as CoreConfig, Proxy as CoreProxy};

/// A configuration with everything derived from it.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub config: ClientConfig,
    pub core: CoreConfig,
    pub tls: Arc<rustls::ClientConfig>,
}

impl Prepared {
    fn parse(text: &str) -> Result<Self, Refused> {
        let config = ClientConfig::parse(text)?;
        let url = Url::parse(&config.url)?;
        let tls = setup::client(&config)?;
        let core = CoreConfig {
            host: url.host,
            port: url.port,
            path: url.path,
            proxy: config
                .proxy
                .as_ref()
                .map(|proxy| CoreProxy { user: proxy.user.clone(), password: proxy.password.clone() }),
            link_local: config.link_local,
            segments: config.segments,
            connect_timeout: Duration::from_secs_f64(config.connect_timeout),
        };
        Ok(Self { config, core, tls })
    }
}

#[derive(Debug)]
pub(crate) enum Command {
    Configure(Box<Prepared>),
    Redial,
    Close,
}

/// Handle of a running tunnel; closes it when dropped.
#[derive(Debug)]
pub struct ClientTunnel {
    commands: mpsc::UnboundedSender<Command>,
    events: Arc<Events>,
    status: Arc<Mutex<Value>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why a tunnel did not start.
#[derive(Debug)]
pub enum StartError {
    Refused(Refused),
    Io(std::io::Error),
}

impl From<Refused> for StartError {
    fn from(error: Refused) -> Self {
        Self::Refused(error)
    }
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl ClientTunnel {
    /// Starts a thread that owns `fd` and keeps the link up.
    ///
    /// # Errors
    /// When the configuration is malformed or the descriptor is not a TUN queue.
    pub fn start(config: &str, fd: OwnedFd) -> Result<Self, StartError> {
        let prepared = Prepared::parse(config)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let events = Arc::new(Events::default());
        let status = Arc::new(Mutex::new(Value::Null));
        let (ready, started) = std::sync::mpsc::channel();
        let shared = (events.clone(), status.clone());
        let thread = std::thread::Builder::new().name("portico-tunnel".to_owned()).spawn(move || {
            let _vital = Vital("keeps the tunnel");
            link::run(prepared, fd, receiver, shared.0, shared.1, &ready);
        })?;
        // The thread sends exactly one message unless it died.
        started.recv().unwrap_or_else(|_| Err(std::io::Error::other("the tunnel's thread ended")))?;
        Ok(Self { commands, events, status, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a new configuration as a whole, or refuses it and keeps the old one.
    pub fn configure(&self, config: &str) -> Result<(), Refused> {
        self.tell(Command::Configure(Box::new(Prepared::parse(config)?)));
        Ok(())
    }

    pub fn next_events(&self, timeout: Duration) -> Vec<String> {
        self.events.next(timeout)
    }

    pub fn redial(&self) {
        self.tell(Command::Redial);
    }

    /// A JSON object: state, error, peer, counters.
    pub fn status(&self) -> String {
        self.status.lock().to_string()
    }

    /// Stops the thread and closes the descriptor.
    pub fn close(&self) {
        self.tell(Command::Close);
        if let Some(thread) = self.thread.lock().take() {
            // Had it panicked, it would have ended the process.
            let _ = thread.join();
        }
    }

    fn tell(&self, command: Command) {
        // Fails only after `close`, when nothing is left to tell.
        let _ = self.commands.send(command);
    }
}

impl Drop for ClientTunnel {
    fn drop(&mut self) {
        self.close();
    }
}
