//! All clients of the process, and what they share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::{self, Handle, Leave, Phase};
use crate::connection::READ;
use crate::figures::Figures;
use crate::traffic::Profile;

type Problem = Box<dyn std::error::Error>;

/// Whether a client whose tunnel ended dials again.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Redial {
    Never,
    /// At once; after a failure when `retry_seconds` have passed.
    AtOnce,
    /// By the schedule of the product's own client.
    Schedule,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses of the server with ports; clients take turns.
    pub targets: Vec<SocketAddr>,
    pub server_name: String,
    /// PEM files.
    trust: String,
    certificate: Option<String>,
    key: Option<String>,
    /// What echo requests go to.
    pub ping_target: Ipv6Addr,
    /// Addresses to dial from; clients take turns. Empty: the system's choice. One address has 28,000 ports to each target.
    #[serde(default)]
    sources: Vec<IpAddr>,
    /// Number of the first client; it makes interface identifiers differ between processes.
    #[serde(default)]
    first: u32,
    /// Connections begun in a second; 0: all at once.
    #[serde(default)]
    pub connections_per_second: f64,
    #[serde(default = "never")]
    pub reconnect: Redial,
    #[serde(default = "retry_seconds")]
    retry_seconds: f64,
    #[serde(default = "attempt_seconds")]
    attempt_seconds: f64,
    /// Each client keeps tickets and resumes.
    #[serde(default)]
    resume: bool,
    /// A record for each packet, as most foreign clients do it.
    #[serde(default)]
    pub packet_per_record: bool,
    /// Seconds between lines of progress; 0: none.
    #[serde(default)]
    pub progress_seconds: f64,
}

fn never() -> Redial {
    Redial::Never
}

fn retry_seconds() -> f64 {
    1.0
}

fn attempt_seconds() -> f64 {
    60.0
}

impl Config {
    pub fn attempt_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.attempt_seconds)
    }

    pub fn retry(&self) -> Duration {
        Duration::from_secs_f64(self.retry_seconds)
    }
}

pub struct Crowd {
    pub config: Config,
    pub name: ServerName<'static>,
    pub began: Instant,
    pub figures: RefCell<Figures>,
    /// Ciphertext, plaintext and packets of whoever has its turn.
    pub scratch: RefCell<Vec<u8>>,
    pub plain: RefCell<Vec<u8>>,
    pub packets: RefCell<Vec<u8>>,
    tls: Arc<ClientConfig>,
    /// Of clients that resume, so that each has its own tickets.
    tls_of: RefCell<BTreeMap<u32, Arc<ClientConfig>>>,
    clients: RefCell<BTreeMap<u32, Rc<Handle>>>,
    next: Cell<u32>,
    profile: RefCell<Rc<Profile>>,
    /// Clients that are to come, and whoever begins them.
    coming: Cell<u32>,
    pub work: Notify,
    /// Clients that leave and are replaced in a second.
    pub churn: Cell<f64>,
}

impl Crowd {
    pub fn new(config: Config) -> Result<Self, Problem> {
        if config.targets.is_empty() {
            return Err("targets: at least one address".into());
        }
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&config.trust)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut tls = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
            _ => builder.with_no_client_auth(),
        };
        tls.resumption = Resumption::disabled();
        Ok(Self {
            name: ServerName::try_from(config.server_name.clone())?,
            began: Instant::now(),
            figures: RefCell::default(),
            scratch: RefCell::new(vec![0; READ]),
            plain: RefCell::default(),
            packets: RefCell::default(),
            tls: Arc::new(tls),
            tls_of: RefCell::default(),
            clients: RefCell::default(),
            next: Cell::new(config.first),
            profile: RefCell::new(Rc::new(Profile::Idle)),
            coming: Cell::new(0),
            work: Notify::new(),
            churn: Cell::new(0.0),
            config,
        })
    }

    pub fn source(&self, index: u32) -> Option<IpAddr> {
        let sources = &self.config.sources;
        (!sources.is_empty()).then(|| sources[index as usize % sources.len()])
    }

    pub fn tls(&self, index: u32) -> Arc<ClientConfig> {
        if !self.config.resume {
            return self.tls.clone();
        }
        let mut all = self.tls_of.borrow_mut();
        let own = all.entry(index).or_insert_with(|| {
            let mut own = (*self.tls).clone();
            own.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(1)));
            Arc::new(own)
        });
        own.clone()
    }

    /// Lets so many more clients come, at the configured rate.
    pub fn connect(&self, count: u32) {
        self.coming.set(self.coming.get() + count);
        self.work.notify_one();
    }

    /// Begins clients that are to come. Never ends.
    pub async fn welcome(self: Rc<Self>) {
        loop {
            while self.coming.get() == 0 {
                self.work.notified().await;
            }
            let rate = self.config.connections_per_second;
            let batch = if rate > 0.0 { (rate / 50.0).ceil() as u32 } else { 256 };
            for _ in 0..batch.min(self.coming.get()) {
                self.coming.set(self.coming.get() - 1);
                self.begin(self.next.replace(self.next.get() + 1));
            }
            if rate > 0.0 {
                tokio::time::sleep(Duration::from_secs_f64(f64::from(batch) / rate)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    fn begin(self: &Rc<Self>, index: u32) {
        let handle = Rc::new(Handle {
            index,
            phase: Cell::new(Phase::Down),
            reachable: Cell::new(false),
            address: Cell::new(None),
            profile: RefCell::new(Rc::clone(&self.profile.borrow())),
            leave: Cell::new(None),
            changed: Notify::new(),
        });
        self.clients.borrow_mut().insert(index, Rc::clone(&handle));
        tokio::task::spawn_local(client::live(Rc::clone(self), handle));
    }

    /// A client's task ended.
    pub fn left(&self, handle: &Handle) {
        self.clients.borrow_mut().remove(&handle.index);
        self.tls_of.borrow_mut().remove(&handle.index);
    }

    /// Makes the oldest so many leave.
    pub fn disconnect(&self, count: usize, how: Leave) -> usize {
        let clients = self.clients.borrow();
        let staying = clients.values().filter(|handle| handle.leave.get().is_none());
        staying.take(count).fold(0, |told, handle| {
            handle.leave.set(Some(how));
            handle.changed.notify_one();
            told + 1
        })
    }

    /// Gives a profile to those with places `from..to` in the order of their numbers, and to all that come.
    pub fn use_profile(&self, profile: Profile, from: usize, to: Option<usize>) {
        let profile = Rc::new(profile);
        if to.is_none() {
            *self.profile.borrow_mut() = Rc::clone(&profile);
        }
        for handle in self.clients.borrow().values().take(to.unwrap_or(usize::MAX)).skip(from) {
            *handle.profile.borrow_mut() = Rc::clone(&profile);
            handle.changed.notify_one();
        }
    }

    /// Replaces clients at the rate of churn. Never ends.
    pub async fn turn_over(self: Rc<Self>) {
        const STEP: Duration = Duration::from_millis(100);
        let mut owed = 0.0;
        let mut odd = false;
        loop {
            tokio::time::sleep(STEP).await;
            owed += self.churn.get() * STEP.as_secs_f64();
            while owed >= 1.0 {
                owed -= 1.0;
                odd = !odd;
                let how = if odd { Leave::Close } else { Leave::Abort };
                self.connect(self.disconnect(1, how) as u32);
            }
        }
    }

    /// Where the clients are now.
    pub fn state(&self) -> Value {
        let clients = self.clients.borrow();
        let count = |phase: Phase| clients.values().filter(|handle| handle.phase.get() == phase).count();
        json!({
            "clients": clients.len(),
            "coming": self.coming.get(),
            "connecting": count(Phase::Connecting),
            "up": count(Phase::Up),
            "reachable": clients.values().filter(|handle| handle.reachable.get()).count(),
            "seconds": (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        })
    }

    pub fn addresses(&self) -> Vec<Ipv6Addr> {
        self.clients.borrow().values().filter_map(|handle| handle.address.get()).collect()
    }
}
