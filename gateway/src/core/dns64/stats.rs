//! What DNS64 counted since it started.

use serde::Serialize;

/// Counters. Every query of a client ends in exactly one of `answered_*`, `refused_*`, `dropped_*`, or still waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Queries received, readable or not.
    pub queries: u64,
    pub queries_udp: u64,
    pub queries_tcp: u64,
    /// Asked by the administrator (`dns64_query`).
    pub queries_local: u64,
    /// Answered from the cache at once.
    pub answered_cached: u64,
    /// Answered at once without a server: ipv4only.arpa and reverse names.
    pub answered_local: u64,
    /// Answered after servers were asked.
    pub answered_resolved: u64,
    /// Told to repeat the query by TCP, because the answer is larger than UDP may carry (also counted in one of the above).
    pub answered_truncated: u64,
    /// Told to repeat an ANY query by TCP (RFC 8482): the classic amplifier.
    pub answered_any_by_tcp: u64,
    /// Told to use TCP because the client sends more than queries_per_second_per_client.
    pub answered_client_rate_by_tcp: u64,
    /// Expired answers, given as no server answered in time (also counted in one of the above).
    pub answered_stale: u64,
    /// Answers with SERVFAIL (also counted in one of the above).
    pub servfail: u64,
    /// Answers whose AAAA records were made here (also counted in one of the above).
    pub synthesized: u64,
    /// Those of them for which no server said a word about AAAA in time.
    pub synthesized_without_aaaa: u64,
    /// Answers about a reverse name under the prefix.
    pub reverse: u64,
    /// AAAA answers from which excluded addresses were removed.
    pub excluded: u64,
    /// DO and CD set: not synthesized for (RFC 6147 section 5.5).
    pub validating: u64,
    /// FORMERR: malformed, but with a readable header.
    pub refused_malformed: u64,
    /// NOTIMP: an operation or type that is not supported.
    pub refused_not_implemented: u64,
    /// REFUSED: zone transfers, and names no configured server is responsible for.
    pub refused_policy: u64,
    /// REFUSED: the client's address lies outside accept_from.
    pub refused_stranger: u64,
    /// BADVERS: a version of EDNS that does not exist yet.
    pub refused_edns_version: u64,
    /// REFUSED: the client had max_queries_per_client queries waiting.
    pub refused_client_limit: u64,
    /// SERVFAIL: max_queries queries of all clients were waiting.
    pub refused_total_limit: u64,
    /// No header, or a response: not answered at all.
    pub dropped_garbage: u64,
    /// Not answered: the client sends more than queries_per_second_per_client.
    pub dropped_client_rate: u64,
    /// Times that reading a TCP connection paused for the same reason.
    pub tcp_paced: u64,
    /// Clients whose count was forgotten because the table of clients was full.
    pub rate_displaced: u64,
    /// Questions asked again before their answers expired, or while an expired answer was given.
    pub refreshed: u64,
    /// Questions that joined one already asked.
    pub joined: u64,
    /// Messages sent to servers.
    pub upstream_udp: u64,
    pub upstream_tcp: u64,
    /// Answers of servers accepted, and what became of attempts that had none.
    pub upstream_answers: u64,
    pub upstream_errors: u64,
    pub upstream_timeouts: u64,
    pub upstream_unreachable: u64,
    /// Truncated by UDP and asked again by TCP.
    pub upstream_truncated: u64,
    /// Answers that could not be read.
    pub upstream_malformed: u64,
    /// Asked again without EDNS.
    pub upstream_without_edns: u64,
    /// Right in all but the case of the question's letters: asked again by TCP.
    pub upstream_wrong_case: u64,
    /// Asked again by TCP after several messages that were not the answer: somebody was guessing.
    pub upstream_guessed: u64,
    /// Answers with records about other names than the question's, which were left out.
    pub upstream_strays: u64,
    /// Aliases followed to the servers of another suffix, and those that led in circles or too far.
    pub chains_followed: u64,
    pub chains_broken: u64,
    /// Messages that answer nothing that was asked: late, duplicate or forged.
    pub upstream_unexpected: u64,
    /// Answers that could not be decoded for synthesis.
    pub undecodable: u64,
    /// Now: queries and questions waiting.
    pub waiting: u64,
    pub asking: u64,
    /// Now: answers kept, and the bytes of memory that they take and may take.
    pub cache_entries: u64,
    pub cache_bytes: u64,
    pub cache_bytes_limit: u64,
    /// Answers that had to leave to make room, and those of them whose place was needed for bytes, not for entries.
    pub cache_evicted: u64,
    pub cache_evicted_for_bytes: u64,
    /// Answers not kept because they are too large.
    pub cache_too_large: u64,
    pub servers: Vec<ServerStats>,
}

/// One server as its suffix's questions see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServerStats {
    pub suffix: String,
    pub address: String,
    /// It kept silent several times in a row and is asked last until it answers.
    pub resting: bool,
    /// It answers other questions and keeps silent about AAAA: clients are not let wait for that.
    pub withholds_aaaa: bool,
    /// Smoothed time between question and answer; 0 until it is known.
    pub round_trip_ms: f64,
    pub sent: u64,
    pub answered: u64,
    pub failed: u64,
}
