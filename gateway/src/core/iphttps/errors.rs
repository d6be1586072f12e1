//! Names for every way a session ends and for every reason a packet is dropped.

use std::fmt;

macro_rules! reasons {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every reason, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in counters and events.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why a session ended or a connection was refused.
    CloseReason {
        /// The peer closed the connection, or the transport was lost.
        PeerClosed = "peer_closed",
        /// What came through an established TLS connection was not authentic or not allowed, or its keys were used up.
        TlsFailed = "tls_failed",
        /// The TLS handshake took too long.
        HandshakeTimeout = "handshake_timeout",
        /// The request did not arrive in time.
        RequestTimeout = "request_timeout",
        /// A request handed up was not answered in time.
        AnswerTimeout = "answer_timeout",
        /// Mode Certificates and the peer showed none.
        NoIdentity = "no_identity",
        /// The certificate is revoked, expired or otherwise not admitted.
        NotAdmitted = "not_admitted",
        /// The request is not HTTP, too long, or has an unusable body length.
        BadRequest = "bad_request",
        /// The request named a path nobody serves.
        NotFound = "not_found",
        /// A response was sent and the connection has no further use.
        Answered = "answered",
        /// The client table is full.
        TableFull = "table_full",
        /// A body byte where an IPv6 header must begin has another version: framing is lost.
        NotIpv6 = "not_ipv6",
        /// A segment header or the packet behind it is nonsense.
        BadSegment = "bad_segment",
        /// The same machine connected again and uses its addresses there.
        Replaced = "replaced",
        /// The owner of a wanted address did not answer neighbour solicitations.
        Silent = "silent",
        /// The authentication mode changed.
        AuthenticationChanged = "authentication_changed",
        /// An administrator disconnected the session.
        Disconnected = "disconnected",
        /// The certificate was revoked while the session was up.
        Revoked = "revoked",
        /// The gateway stops.
        Shutdown = "shutdown",
    }
}

reasons! {
    /// Why a packet went nowhere.
    DropReason {
        /// Shorter than an IPv6 header, another version, or a length that is not the packet's.
        Malformed = "malformed",
        /// The session was evicted and its packets no longer count.
        Evicted = "evicted",
        /// The source is neither link-local nor in the prefix of this link.
        ForeignSource = "foreign_source",
        /// The source is one of the server's own addresses or reserved for it.
        ServerSource = "server_source",
        /// The source belongs to another live session.
        AddressInUse = "address_in_use",
        /// The source belongs to a silent session that is being probed.
        AddressProbed = "address_probed",
        /// The session has as many addresses as it may have.
        AddressLimit = "address_limit",
        /// The unspecified source on something other than neighbour discovery or multicast listener reports.
        UnspecifiedSource = "unspecified_source",
        /// The unspecified, loopback or reserved destination.
        BadDestination = "bad_destination",
        /// Link-local from client to client.
        LinkLocalToClient = "link_local_to_client",
        /// Multicast that the authentication mode does not let pass.
        Multicast = "multicast",
        /// Multicast beyond the budget of copies per second.
        MulticastRate = "multicast_rate",
        /// Neighbour discovery that fails the validity checks of RFC 4861.
        InvalidDiscovery = "invalid_discovery",
        /// Router advertisement or redirect from a client.
        RogueRouter = "rogue_router",
        /// A neighbour message about a target that is nobody's business here.
        ForeignTarget = "foreign_target",
        /// Fragments or header chains that hide what a multicast packet is.
        Hidden = "hidden",
        /// Longer than the MTU; answered with Packet Too Big unless that was rate limited.
        TooBig = "too_big",
        /// A reply was due and the session's budget of replies is spent.
        ReplyRate = "reply_rate",
        /// From the host to an address that is not on this link.
        NotOnLink = "not_on_link",
        /// From the host to an address nobody owns, and the budget of errors is spent.
        Unreachable = "unreachable",
        /// Multicast from the host's kernel.
        HostMulticast = "host_multicast",
    }
}

/// Packets dropped, by reason. Saturates.
#[derive(Clone, Debug)]
pub struct DropCounters([u32; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    pub fn count(&mut self, reason: DropReason) {
        let counter = &mut self.0[reason as usize];
        *counter = counter.saturating_add(1);
    }

    pub fn get(&self, reason: DropReason) -> u32 {
        self.0[reason as usize]
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u32)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, count)| count > 0)
    }
}
