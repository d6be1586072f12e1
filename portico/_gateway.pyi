"""The native data plane. Packets never pass through Python; configuration, events and counters do, as JSON."""

class Gateway:
    """A Remote Access server's packet path: IP-HTTPS sessions, NAT64, DNS64.

    Descriptors are opened by a privileged parent and owned by the gateway from here on. `tunnel_fds` and `nat64_fds`
    are queues of TUN devices with IFF_VNET_HDR (one of each per worker), `listener_fds` listening TCP sockets (one
    per worker, SO_REUSEPORT), `dns_udp_fds` and `dns_tcp_fds` bound DNS64 sockets.

    Raises:
        ValueError: the configuration is malformed; the message names the field.
        OSError: a descriptor is not what it should be.
    """

    def __init__(
        self,
        config: str,
        *,
        tunnel_fds: list[int],
        nat64_fds: list[int],
        listener_fds: list[int],
        dns_udp_fds: list[int],
        dns_tcp_fds: list[int],
    ) -> None: ...
    def configure(self, config: str) -> None:
        """Takes a new configuration as a whole, or raises ValueError and keeps the old one."""
    def next_events(self, timeout: float) -> list[str]:
        """Waits up to `timeout` seconds for events; JSON objects, oldest first, at most 1,088 a call."""
    def answer(self, request: int, status: int, content_type: str, body: bytes) -> bool:
        """Answers an HTTP request that an event handed up; False when its connection is gone."""
    def sessions(self, after: int = 0, limit: int = ...) -> str:
        """A JSON array of at most `limit` sessions in the order of their numbers, from the first behind `after`."""
    def disconnect(self, sessions: list[int]) -> int:
        """Closes sessions by number and returns how many there were."""
    def stats(self) -> str:
        """A JSON object of counters."""
    def turned(self, timeout: float) -> bool:
        """Waits at most so many seconds until every worker has had a turn of its event loop; false: one has not.

        Raises:
            ValueError: a negative or immense time.
        """
    def replace_dns_sockets(self, udp_fds: list[int], tcp_fds: list[int]) -> None:
        """Serves DNS64 on other sockets from now on, or with none not at all; it owns them from here on.

        Raises:
            OSError: a descriptor is not what it should be; DNS64 is off then.
        """
    def dns64_flush(self, request: str) -> str:
        """Forgets cached answers of DNS64.

        `{"name": null | "www.corp.example.net", "tree": false}`: everything, a name, or with `tree` also the names
        below it; escapes as in zone files. Returns `{"removed": n}`. Raises ValueError with the reason when refused.
        """
    def dns64_query(self, request: str) -> str:
        """Asks DNS64 as a client would, past the network and the limits of clients.

        `{"name": "app4.corp.example.net", "type": "AAAA", "dnssec": false, "timeout": 5.0}`; only the name is needed,
        types without a name are written TYPE65400. Returns `{"rcode": "NOERROR", "authenticated": false, "answers":
        [{"name", "type", "ttl", "data"}], "authority": [...], "source": "local" | "cache" | "stale" | "upstream",
        "synthesized": bool, "server": null | "10.0.0.53:53", "upstream_questions": [{"name", "type", "server",
        "rcode"}], "elapsed_ms": 0.4}`. Raises ValueError with the reason when refused or when no answer came within
        `timeout` seconds.
        """
    def nat64_sessions(self, question: str) -> str:
        """A page of NAT64's sessions.

        `question` is a JSON object with any of `limit` (1 to 10,000, default 1,000), `after` (the `next` of the page
        before), `client`, `protocol` ("tcp", "udp", "icmp"), `port` (on the IPv4 side) and `destination` (IPv4). The
        answer is `{"sessions": [...], "next": ..., "total": ...}`: `next` is null behind the last page, `total` counts
        all sessions, whatever the question. `expires_in` is in seconds.

        Raises:
            ValueError: the question is malformed, or NAT64 is off.
        """
    def nat64_bindings(self, question: str) -> str:
        """A page of NAT64's bindings, asked for like sessions but without `destination`: `{"bindings": [...], ...}`."""
    def nat64_open(self, question: str) -> str:
        """Replaces the clients that reach everything through NAT64 although `open_hosts` restricts the others.

        Args:
            question: `{"clients": [IPv6 address, ...]}`.

        Returns:
            `{"closed": n}`: sessions of clients that were taken out, which are gone.
        """
    def close(self) -> None:
        """Stops all workers and closes every descriptor."""

class ClientTunnel:
    """A remote computer's end of IP-HTTPS over one TUN queue.

    Raises:
        ValueError: the configuration is malformed.
        OSError: the descriptor is not a TUN queue.
    """

    def __init__(self, config: str, *, tunnel_fd: int) -> None: ...
    def configure(self, config: str) -> None:
        """Takes a new configuration; redials when what it dials or presents changed."""
    def next_events(self, timeout: float) -> list[str]: ...
    def redial(self) -> None:
        """Drops the connection, if any, and dials at once (the network changed)."""
    def status(self) -> str: ...
    def close(self) -> None: ...

def confine() -> None:
    """Leaves this process, all its threads, only the system calls that a running gateway needs. It cannot be undone.

    Reading files, sockets of IPv4 and IPv6, memory and threads remain; everything else fails with EPERM, and what only
    an intruder asks for (another program, another process' memory) ends the process with SIGSYS.

    Raises:
        OSError: the kernel has no seccomp, or `no_new_privs` is not set.
    """
