//! The accounting log: when a dynamic binding began and ended (RFC 6888 section 4), kept until somebody takes it.

use super::Protocol;
use crate::core::time::Now;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Rows kept for a reader that does not come; later ones are dropped and counted.
const CAPACITY: usize = 16_384;

/// One binding that began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRow {
    pub open: bool,
    pub at: Now,
    pub protocol: Protocol,
    pub client: Ipv6Addr,
    /// Port, or ICMP identifier.
    pub client_port: u16,
    pub address: Ipv4Addr,
    pub port: u16,
}

#[derive(Debug, Default)]
pub struct Log {
    rows: VecDeque<LogRow>,
    pub dropped: u64,
    /// Those of `dropped` that a reader was told of.
    told: u64,
}

impl Log {
    pub fn push(&mut self, row: LogRow) {
        if self.rows.len() >= CAPACITY {
            self.dropped += 1;
        } else {
            self.rows.push_back(row);
        }
    }

    /// Moves up to `count` rows, oldest first, to the end of `out`; returns how many were lost since the last call.
    pub fn take(&mut self, count: usize, out: &mut Vec<LogRow>) -> u64 {
        out.extend(self.rows.drain(..count.min(self.rows.len())));
        self.dropped - std::mem::replace(&mut self.told, self.dropped)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_nobody_reads_is_bounded_and_counts_what_it_lost() {
        let mut log = Log::default();
        let row = LogRow {
            open: true,
            at: Now(0),
            protocol: Protocol::Udp,
            client: Ipv6Addr::LOCALHOST,
            client_port: 1,
            address: Ipv4Addr::LOCALHOST,
            port: 1,
        };
        for at in 0..CAPACITY as u64 + 3 {
            log.push(LogRow { at: Now(at), ..row });
        }
        let mut rows = Vec::new();
        assert_eq!((log.take(10, &mut rows), log.take(0, &mut rows)), (3, 0));
        assert_eq!((rows.len(), rows[9].at, log.len(), log.dropped), (10, Now(9), CAPACITY - 10, 3));
        log.take(usize::MAX, &mut rows);
        assert_eq!((rows.len(), log.len()), (CAPACITY, 0));
    }
}
