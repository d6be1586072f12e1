"""What is measured: names, units, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """title: a column's head; unit: for texts; pattern: how a value is printed; more: whether more is better."""

    title: str
    unit: str
    pattern: str
    more: bool

    def text(self, value: float) -> str:
        return self.pattern.format(value)


FIGURES: dict[str, Figure] = {
    "up": Figure("up, Gbit/s", "Gbit/s", "{:.2f}", more=True),
    "down": Figure("down, Gbit/s", "Gbit/s", "{:.2f}", more=True),
    "small_up": Figure("200-byte packets/s up", "packets/s", "{:,.0f}", more=True),
    "small_down": Figure("200-byte packets/s down", "packets/s", "{:,.0f}", more=True),
    "ping": Figure("ping, ms", "ms", "{:.3f}", more=False),
    "cpu_per_gb": Figure("gateway CPU s per GB", "s/GB", "{:.2f}", more=False),
    "line_up": Figure("Mbit/s up", "Mbit/s", "{:.1f}", more=True),
    "line_down": Figure("Mbit/s down", "Mbit/s", "{:.1f}", more=True),
    "line_ping_up": Figure("ping during up, ms", "ms", "{:.1f}", more=False),
    "line_ping_down": Figure("ping during down, ms", "ms", "{:.1f}", more=False),
    "handshakes": Figure("handshakes per second and core", "per second and core", "{:,.0f}", more=True),
    "tunnels": Figure("tunnels per second and core", "per second and core", "{:,.0f}", more=True),
    "known_tunnels": Figure("of clients that return", "per second and core", "{:,.0f}", more=True),
    "library_handshakes": Figure("TLS library alone", "per second and core", "{:,.0f}", more=True),
    "same_cipher": Figure("TLS library alone, same cipher", "per second and core", "{:,.0f}", more=True),
    "tunnel_kib": Figure("KiB per idle tunnel", "KiB", "{:.1f}", more=False),
    "filtered": Figure("Gbit/s to a VIP", "Gbit/s", "{:.2f}", more=True),
    "unfiltered": Figure("no filter", "Gbit/s", "{:.2f}", more=True),
    "filtered_small": Figure("64-byte packets/s to a VIP", "packets/s", "{:,.0f}", more=True),
    "unfiltered_small": Figure("no filter", "packets/s", "{:,.0f}", more=True),
    "small_of_2": Figure("packets/s, 2 servers", "packets/s", "{:,.0f}", more=True),
    "small_of_8": Figure("packets/s, 8 servers", "packets/s", "{:,.0f}", more=True),
    "small_of_32": Figure("packets/s, 32 servers", "packets/s", "{:,.0f}", more=True),
    "back_power": Figure("power cut, ms", "ms", "{:,.0f}", more=False),
    "back_gateway": Figure("killed gateway, ms", "ms", "{:,.0f}", more=False),
    "back_agent": Figure("killed agent, ms", "ms", "{:,.0f}", more=False),
    "back_frozen": Figure("frozen server, ms", "ms", "{:,.0f}", more=False),
    "back_cut_out": Figure("cut external cable, ms", "ms", "{:,.0f}", more=False),
    "back_cut_in": Figure("cut internal cable, ms", "ms", "{:,.0f}", more=False),
    "deaf_s": Figure("deafness found, s", "s", "{:.2f}", more=False),
    "list_ms": Figure("slowest list call, ms", "ms", "{:.1f}", more=False),
    "list_ms_95": Figure("19 of 20 answers, ms", "ms", "{:.1f}", more=False),
    "change_s": Figure("a change everywhere, s", "s", "{:.2f}", more=False),
    "start_s": Figure("a server's start, s", "s", "{:.2f}", more=False),
    "inside_s": Figure("inside known, s", "s", "{:.2f}", more=False),
    "connected_s": Figure("connected, s", "s", "{:.2f}", more=False),
    "lost_s": Figure("no network known, s", "s", "{:.2f}", more=False),
    "astray_s": Figure("captive portal known, s", "s", "{:.2f}", more=False),
    "answers": Figure("answers/s", "answers/s", "{:,.0f}", more=True),
    "answers_per_core": Figure("answers per CPU second", "answers per CPU second", "{:,.0f}", more=True),
}
