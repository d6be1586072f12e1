//! Router Advertisements: content, answers to solicitations, and the unsolicited ones.
//!
//! Router lifetime is 0 by default: clients reach the intranet by Route Information (RFC 4191) and keep their own
//! default route. The prefix is on-link and autonomous, so clients make their addresses themselves.

use std::time::Duration;

use super::{LinkConfig, MTU, SessionId};
use crate::core::time::Now;
use crate::wire::ndp::{ALL_NODES, PrefixInformation, RouteInformation, RouterAdvertisement};

/// How long clients may use an address after the last advertisement, in seconds: a day without the server.
const VALID: u32 = 86_400;
/// How long they prefer it for new connections, in seconds.
const PREFERRED: u32 = 14_400;
/// What clients put into packets as hop limit.
const HOP_LIMIT: u8 = 64;
/// Sessions that one step of an unsolicited advertisement reaches, so that thousands of TLS records are not due at once.
const BATCH: usize = 256;
/// Between two such steps.
const BATCH_PAUSE: Duration = Duration::from_millis(10);

pub(super) fn advertisement(config: &LinkConfig) -> RouterAdvertisement {
    let route = |route: &super::Route| RouteInformation {
        prefix: route.prefix,
        length: route.length,
        lifetime: config.route_lifetime,
    };
    RouterAdvertisement {
        hop_limit: HOP_LIMIT,
        router_lifetime: config.router_lifetime,
        prefixes: vec![PrefixInformation {
            prefix: config.prefix,
            length: 64,
            on_link: true,
            autonomous: true,
            valid: VALID,
            preferred: PREFERRED,
        }],
        routes: config.routes.iter().map(route).collect(),
        mtu: Some(MTU as u32),
    }
}

/// The unsolicited advertisement: the packet and who gets it when.
#[derive(Debug)]
pub(super) struct Advertiser {
    packet: Vec<u8>,
    due: Now,
    /// Sessions that the advertisement under way has still to reach.
    waiting: Vec<SessionId>,
}

impl Advertiser {
    pub(super) fn new(config: &LinkConfig, now: Now) -> Self {
        let packet = advertisement(config).emit(config.link_local, ALL_NODES);
        Self { packet, due: now + config.advertise_interval, waiting: Vec::new() }
    }

    /// The configuration changed: everyone hears of it at once.
    pub(super) fn renew(&mut self, config: &LinkConfig, now: Now) {
        *self = Self::new(config, now);
        self.due = now;
    }

    pub(super) fn due(&self) -> Now {
        self.due
    }

    /// The next batch of receivers with the packet, when one is due. `jitter` in 0..1 places the next advertisement
    /// between a third of the interval and all of it (RFC 4861 section 6.2.1).
    pub(super) fn step(
        &mut self,
        now: Now,
        jitter: f64,
        config: &LinkConfig,
        sessions: impl FnOnce() -> Vec<SessionId>,
    ) -> Option<(Vec<SessionId>, &[u8])> {
        if self.due > now {
            return None;
        }
        if self.waiting.is_empty() {
            self.waiting = sessions();
        }
        let batch = self.waiting.split_off(self.waiting.len().saturating_sub(BATCH));
        self.due = if self.waiting.is_empty() {
            now + config.advertise_interval.mul_f64(0.33 + 0.67 * jitter.clamp(0.0, 1.0))
        } else {
            now + BATCH_PAUSE
        };
        Some((batch, &self.packet))
    }
}
