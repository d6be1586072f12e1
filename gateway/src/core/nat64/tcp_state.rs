//! The TCP session states of RFC 6146 section 3.5.2.2, as a table.
//!
//! CLOSED is the absence of a session. The translator does not follow sequence numbers: it only needs to know whether a
//! connection is likely alive (long timer) or opening or closing (short timer).

use crate::wire::tcp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// SYN seen from IPv4 only.
    V4Init,
    /// SYN seen from IPv6 only.
    V6Init,
    Established,
    /// FIN seen from IPv4.
    V4FinReceived,
    /// FIN seen from IPv6.
    V6FinReceived,
    BothFinReceived,
    /// RST seen.
    Transitory,
}

impl TcpState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4Init => "v4_init",
            Self::V6Init => "v6_init",
            Self::Established => "established",
            Self::V4FinReceived => "v4_fin_received",
            Self::V6FinReceived => "v6_fin_received",
            Self::BothFinReceived => "both_fin_received",
            Self::Transitory => "transitory",
        }
    }
}

/// What a segment is to the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEvent {
    V4Syn,
    V6Syn,
    V4Fin,
    V6Fin,
    V4Rst,
    V6Rst,
    /// No SYN, FIN or RST, from either side.
    Other,
}

impl TcpEvent {
    pub const fn of(flags: u8, from_v6: bool) -> Self {
        // RST wins: no stack opens or closes a connection with a segment that resets it.
        if flags & tcp::RST != 0 {
            return if from_v6 { Self::V6Rst } else { Self::V4Rst };
        }
        if flags & tcp::SYN != 0 {
            return if from_v6 { Self::V6Syn } else { Self::V4Syn };
        }
        if flags & tcp::FIN != 0 {
            return if from_v6 { Self::V6Fin } else { Self::V4Fin };
        }
        Self::Other
    }
}

/// What happens to the session's lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpTimer {
    Keep,
    Established,
    Transitory,
}

/// Which events a row of the table is about.
enum On {
    One(TcpEvent),
    Rst,
    Any,
}

use TcpState::*;

/// The first row that matches counts; without one, the state and its timer stay as they are.
const TRANSITIONS: &[(TcpState, On, TcpState, TcpTimer)] = &[
    (V4Init, On::One(TcpEvent::V6Syn), Established, TcpTimer::Established),
    (V6Init, On::One(TcpEvent::V4Syn), Established, TcpTimer::Established),
    (V6Init, On::One(TcpEvent::V6Syn), V6Init, TcpTimer::Transitory),
    (Established, On::One(TcpEvent::V4Fin), V4FinReceived, TcpTimer::Keep),
    (Established, On::One(TcpEvent::V6Fin), V6FinReceived, TcpTimer::Keep),
    (Established, On::Rst, Transitory, TcpTimer::Transitory),
    (Established, On::Any, Established, TcpTimer::Established),
    (V4FinReceived, On::One(TcpEvent::V6Fin), BothFinReceived, TcpTimer::Transitory),
    // RFC 6146 would let what a reset ended live for hours; RFC 5382 REQ-5 and RFC 7857 section 2 give it minutes.
    (V4FinReceived, On::Rst, Transitory, TcpTimer::Transitory),
    (V4FinReceived, On::Any, V4FinReceived, TcpTimer::Established),
    (V6FinReceived, On::One(TcpEvent::V4Fin), BothFinReceived, TcpTimer::Transitory),
    (V6FinReceived, On::Rst, Transitory, TcpTimer::Transitory),
    (V6FinReceived, On::Any, V6FinReceived, TcpTimer::Established),
    (Transitory, On::Rst, Transitory, TcpTimer::Keep),
    (Transitory, On::Any, Established, TcpTimer::Established),
];

/// The state after `event`, and what becomes of the timer.
pub fn next(state: TcpState, event: TcpEvent) -> (TcpState, TcpTimer) {
    for (from, on, to, timer) in TRANSITIONS {
        let matches = match on {
            On::One(wanted) => *wanted == event,
            On::Rst => matches!(event, TcpEvent::V4Rst | TcpEvent::V6Rst),
            On::Any => true,
        };
        if *from == state && matches {
            return (*to, *timer);
        }
    }
    (state, TcpTimer::Keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(start: TcpState, events: &[TcpEvent]) -> TcpState {
        events.iter().fold(start, |state, event| next(state, *event).0)
    }

    #[test]
    fn a_connection_opens_and_closes() {
        assert_eq!(next(V6Init, TcpEvent::V4Syn), (Established, TcpTimer::Established));
        assert_eq!(walk(V6Init, &[TcpEvent::V4Syn, TcpEvent::V6Fin]), V6FinReceived);
        assert_eq!(next(V6FinReceived, TcpEvent::V4Fin), (BothFinReceived, TcpTimer::Transitory));
        assert_eq!(next(BothFinReceived, TcpEvent::Other), (BothFinReceived, TcpTimer::Keep));
        assert_eq!(walk(V4Init, &[TcpEvent::V6Syn, TcpEvent::V4Fin, TcpEvent::V6Fin]), BothFinReceived);
    }

    #[test]
    fn a_reset_shortens_and_life_after_it_restores() {
        assert_eq!(next(Established, TcpEvent::V4Rst), (Transitory, TcpTimer::Transitory));
        assert_eq!(next(Transitory, TcpEvent::V6Rst), (Transitory, TcpTimer::Keep));
        assert_eq!(next(Transitory, TcpEvent::Other), (Established, TcpTimer::Established));
    }

    #[test]
    fn an_unanswered_syn_stays_transitory() {
        assert_eq!(next(V6Init, TcpEvent::V6Syn), (V6Init, TcpTimer::Transitory));
        assert_eq!(next(V6Init, TcpEvent::Other), (V6Init, TcpTimer::Keep));
        assert_eq!(next(V4Init, TcpEvent::V4Syn), (V4Init, TcpTimer::Keep));
    }

    #[test]
    fn flags_become_events() {
        assert_eq!(TcpEvent::of(tcp::SYN | tcp::ACK, false), TcpEvent::V4Syn);
        assert_eq!(TcpEvent::of(tcp::RST | tcp::ACK, true), TcpEvent::V6Rst);
        assert_eq!(TcpEvent::of(tcp::FIN | tcp::ACK, true), TcpEvent::V6Fin);
        assert_eq!(TcpEvent::of(tcp::ACK | tcp::PSH, true), TcpEvent::Other);
    }
}
