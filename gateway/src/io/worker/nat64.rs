//! NAT64 on the packet path.

use std::rc::Rc;
use std::sync::Arc;

use super::Worker;
use crate::core::frame::Frame;
use crate::io::stats::HostCounters;
use crate::io::tun::Device;

pub(super) struct Nat64Path {
    pub device: Rc<Device>,
}

impl Nat64Path {
    pub fn new(device: Rc<Device>, counters: &Arc<HostCounters>) -> Self {
        let _ = counters;
        Self { device }
    }
}

impl Worker {
    pub(super) fn is_for_nat64(&self, _packet: &[u8]) -> bool {
        false
    }

    pub(super) fn to_nat64(&self, _frame: &mut Frame<'_>) {
        self.handle().counters.drop_nat64_off.add(1);
    }

    pub(super) fn flush_nat64(&self) {}

    pub(super) async fn from_nat64(self: Rc<Self>) {
        std::future::pending::<()>().await;
    }
}
