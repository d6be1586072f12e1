//! Counters: what was translated, what was refused and why.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// Why a packet was not translated. Each has a counter in [`Stats::refused`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name in counters and JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// A length field or header contradicts the packet.
    Malformed => "malformed",
    /// The IPv4 header or ICMP checksum is wrong.
    Checksum => "checksum",
    /// The IPv6 destination is not in the translation prefix.
    NotInPrefix => "not_in_prefix",
    /// The IPv4 destination is not in the pool.
    NotInPool => "not_in_pool",
    /// No translation prefix is for the network of this IPv4 host.
    NoPrefix => "no_prefix",
    /// The source cannot be that of a host, or is itself in the translation prefix.
    Source => "source",
    /// The embedded IPv4 address cannot be that of a host.
    Destination => "destination",
    /// TTL or hop limit used up.
    HopLimit => "hop_limit",
    /// An IPv4 source route that has hops left (RFC 7915 section 4.1).
    SourceRoute => "source_route",
    /// A Routing header that has segments left (RFC 7915 section 5.1).
    RoutingHeader => "routing_header",
    /// Neither TCP, UDP nor ICMP.
    Protocol => "protocol",
    /// An ICMP type or code that has no translation.
    IcmpType => "icmp_type",
    /// An extension header behind a Fragment header (RFC 7915 section 5.1.1).
    ExtensionHeader => "extension_header",
    /// An ICMP error about a packet that no session knows or that the sender was not part of.
    IcmpQuote => "icmp_quote",
    /// UDP without checksum from IPv6 (RFC 8200 section 8.1).
    UdpChecksumZero => "udp_checksum_zero",
    /// Larger than the next hop carries, and not to be fragmented.
    TooBig => "too_big",
    /// From IPv4 to a port that nobody uses.
    NoBinding => "no_binding",
    /// TCP that belongs to no session and is no SYN.
    NoSession => "no_session",
    /// From an IPv4 host that the address-dependent filter keeps out.
    Filtered => "filtered",
    /// From a client whose user has not authenticated, to a host that is not for everybody.
    Unauthenticated => "unauthenticated",
    /// All bindings are in use.
    BindingsFull => "bindings_full",
    /// All sessions are in use.
    SessionsFull => "sessions_full",
    /// This client has all the bindings it may have.
    ClientBindings => "client_bindings",
    /// This client has all the sessions it may have.
    ClientSessions => "client_sessions",
    /// Too many unsolicited SYNs wait for their clients.
    SynsFull => "syns_full",
    /// No port of the pool is free.
    PortsExhausted => "ports_exhausted",
    /// Too many fragmented packets or held bytes.
    FragmentsFull => "fragments_full",
    /// The buffer has no room for the larger header or for the answer.
    NoRoom => "no_room",
}

/// Counters since the start, and how full the tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames and bytes (before translation) from IPv6 to IPv4; a super-segment is one frame.
    pub packets_6to4: u64,
    pub bytes_6to4: u64,
    /// Frames and bytes (before translation) from IPv4 to IPv6.
    pub packets_4to6: u64,
    pub bytes_4to6: u64,
    /// Packets that stayed among IPv6 hosts because both ends are behind this translator.
    pub hairpinned: u64,
    /// Packets made by fragmenting larger ones.
    pub fragments_made: u64,
    pub fragments_held: u64,
    /// Held fragments whose first fragment did not come in time.
    pub fragments_expired: u64,
    /// Packets put together from fragments here that belong to another shard.
    pub handed_over: u64,
    pub bindings_created: u64,
    pub sessions_created: u64,
    pub sessions_expired: u64,
    /// Unsolicited SYNs that wait for their clients now.
    pub syns_held: u64,
    /// Connections that both ends opened at once.
    pub simultaneous_opens: u64,
    /// Probes of idle TCP connections (RFC 6146 section 3.5.2.2).
    pub probes_sent: u64,
    /// ICMP errors sent, and errors kept back by the rate limit.
    pub errors_sent: u64,
    pub errors_limited: u64,
    /// Rows of the accounting log that nobody took in time.
    pub log_dropped: u64,
    /// Memory of the tables, without that of the pool's ports.
    pub table_bytes: u64,
    pub bindings: u64,
    pub static_bindings: u64,
    pub sessions: u64,
    pub clients: u64,
    pub(super) refused: [u64; Reason::ALL.len()],
}

impl Stats {
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize]
    }

    pub(super) fn refuse(&mut self, reason: Reason) {
        self.refused[reason as usize] += 1;
    }

    /// All counters by name, refusals as `refused_<reason>`.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let named = [
            ("packets_6to4", self.packets_6to4),
            ("bytes_6to4", self.bytes_6to4),
            ("packets_4to6", self.packets_4to6),
            ("bytes_4to6", self.bytes_4to6),
            ("hairpinned", self.hairpinned),
            ("fragments_made", self.fragments_made),
            ("fragments_held", self.fragments_held),
            ("fragments_expired", self.fragments_expired),
            ("handed_over", self.handed_over),
            ("bindings_created", self.bindings_created),
            ("sessions_created", self.sessions_created),
            ("sessions_expired", self.sessions_expired),
            ("syns_held", self.syns_held),
            ("simultaneous_opens", self.simultaneous_opens),
            ("probes_sent", self.probes_sent),
            ("errors_sent", self.errors_sent),
            ("errors_limited", self.errors_limited),
            ("log_dropped", self.log_dropped),
            ("table_bytes", self.table_bytes),
            ("bindings", self.bindings),
            ("static_bindings", self.static_bindings),
            ("sessions", self.sessions),
            ("clients", self.clients),
        ];
        let refused = Reason::ALL.iter().map(|reason| (format!("refused_{}", reason.as_str()), self.refused(*reason)));
        named.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(refused).collect()
    }
}
