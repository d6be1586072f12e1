//! What only a mistake in this program can bring about, counted: an operator, a test or a soak looks at these numbers and
//! expects zero.
//!
//! Whatever a peer, the network or the system may cause has a counter of its own elsewhere and does not belong here. The
//! numbers are of the process, since a defect is: they are the only state a core shares with anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// A thing that must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// A thread or task panicked.
    Panic,
    /// A state machine of a connection was asked for a step that its table does not have.
    Transition,
    /// The number of a session was given twice.
    SessionTwice,
    /// A session that was up was not in the registry when it ended.
    SessionUnregistered,
}

impl Impossible {
    pub const ALL: &[Self] = &[Self::Panic, Self::Transition, Self::SessionTwice, Self::SessionUnregistered];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "impossible_panic",
            Self::Transition => "impossible_transition",
            Self::SessionTwice => "impossible_session_twice",
            Self::SessionUnregistered => "impossible_session_unregistered",
        }
    }
}

static COUNTS: [AtomicU64; Impossible::ALL.len()] = [const { AtomicU64::new(0) }; Impossible::ALL.len()];

/// It happened.
pub fn happened(what: Impossible) {
    COUNTS[what as usize].fetch_add(1, Ordering::Relaxed);
}

/// All of them by name.
pub fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    Impossible::ALL.iter().map(|&what| (what.as_str(), COUNTS[what as usize].load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_belongs_to_its_name() {
        for (index, &what) in Impossible::ALL.iter().enumerate() {
            assert_eq!(what as usize, index);
            assert!(what.as_str().starts_with("impossible_"));
        }
    }
}
