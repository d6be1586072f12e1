//! RFC 7915, sections 4 and 5, rule by rule: a raw packet goes in, an exact packet comes out.
//!
//! Written from the text of the RFC, with builders and checksums of its own; each test names its section and quotes the
//! rule. The translator is stateful (RFC 6146), and where that RFC decides (addresses, ports, protocols without ports)
//! the test says so. The mapping keeps the port, so that expected packets can be written down.

// The Python module brings its own start-up.
#![cfg(not(feature = "python"))]

mod extensions;
mod icmp_from_v4;
mod icmp_from_v6;
mod packets;
mod v4_to_v6;
mod v6_to_v4;

use packets::*;
use portico_gateway::core::frame::{Frame, HEADROOM, Offload};
use portico_gateway::core::nat64::{Config, Nat64, PoolEntry, Prefix, Verdict};
use portico_gateway::core::time::Now;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The translator's IPv4 address, as which the client appears.
const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// An IPv4 host, and a router on the way to it.
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
/// Port or echo identifier of the client, and of its mapping.
const PORT: u16 = 40_000;

fn client() -> Ipv6Addr {
    "2001:db8:1::c".parse().unwrap()
}

/// A router between translator and client.
fn router6() -> Ipv6Addr {
    "2001:db8:1::ffff".parse().unwrap()
}

/// The translator's own IPv6 address.
fn translator6() -> Ipv6Addr {
    "2001:db8:1::1".parse().unwrap()
}

/// An IPv4 address in the translation prefix (RFC 6052).
fn embedded(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, u16::from(a) << 8 | u16::from(b), u16::from(c) << 8 | u16::from(d))
}

fn config() -> Config {
    let prefix = Prefix::new("2001:db8:64::".parse().unwrap(), 96).unwrap();
    Config::new(prefix, vec![PoolEntry { address: POOL, first: 32_768, last: 60_999 }], translator6())
}

struct Translator {
    nat: Nat64,
}

impl Translator {
    fn new(config: Config) -> Self {
        Self { nat: Nat64::new(config).unwrap() }
    }

    /// A translator that knows the client's UDP and TCP ports and its echo identifier, all with [`SERVER`].
    fn open() -> Self {
        Self::open_with(config())
    }

    fn open_with(config: Config) -> Self {
        let mut translator = Self::new(config);
        let to = |upper| Ip6::new(upper, client(), embedded(SERVER));
        for packet in [
            to(UDP).packet(&udp(PORT, 53, b"")),
            to(TCP).packet(&tcp(PORT, 80, 2, b"")),
            to(ICMPV6).packet(&echo(128, PORT, 1, b"")),
        ] {
            assert_eq!(translator.run(&packet).len(), 1);
        }
        translator
    }

    /// Everything that comes out for one packet, which goes in on the side its version names: the translated packet or
    /// its fragments, or the ICMP error for its sender, or nothing.
    fn run(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut buffer = vec![0xee; HEADROOM + packet.len() + 1500];
        buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let mut frame = Frame::new(&mut buffer, HEADROOM, HEADROOM + packet.len(), Offload::default());
        let mut out = Vec::new();
        let mut sink = |bytes: &[u8]| out.push(bytes.to_vec());
        let now = Now::from_secs(100);
        let verdict = match packet[0] >> 4 {
            4 => self.nat.from_v4(now, &mut frame, &mut sink),
            _ => self.nat.from_v6(now, &mut frame, &mut sink),
        };
        if matches!(verdict, Verdict::Forward | Verdict::Reply) {
            out.push(frame.bytes().to_vec());
        }
        out
    }

    /// The one packet that comes out.
    #[track_caller]
    fn one(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut out = self.run(packet);
        assert_eq!(out.len(), 1, "one packet comes out");
        out.remove(0)
    }

    #[track_caller]
    fn silent(&mut self, packet: &[u8]) {
        let out = self.run(packet);
        assert!(out.is_empty(), "nothing comes out, not {out:x?}");
    }
}

/// A packet from the server to the client's mapping.
fn from4(protocol: u8) -> Ip4 {
    Ip4 { ttl: 64, id: 0x1234, df: true, ..Ip4::new(protocol, SERVER, POOL) }
}

/// What the client gets for [`from4`].
fn to6(upper: u8) -> Ip6 {
    Ip6::new(upper, embedded(SERVER), client())
}

/// A packet from the client to the server.
fn from6(upper: u8) -> Ip6 {
    Ip6 { hops: 64, flow: 0xabcde, ..Ip6::new(upper, client(), embedded(SERVER)) }
}

/// What the server gets for [`from6`].
fn to4(protocol: u8) -> Ip4 {
    Ip4::new(protocol, POOL, SERVER)
}

/// `expected` with the identification of `packet`, which the translator chose.
fn same_id(expected: &Ip4, packet: &[u8]) -> Ip4 {
    Ip4 { id: u16::from_be_bytes([packet[4], packet[5]]), ..expected.clone() }
}

/// An ICMPv4 error of the translator: from the address the packet was for, with the head of that packet.
fn error4(kind: u8, code: u8, word: u32, about: &[u8], answer: &[u8]) -> Vec<u8> {
    let quoted = &about[..about.len().min(576 - 28)];
    let header = Ip4 { tos: answer[1], ttl: answer[8], ..same_id(&Ip4::new(ICMP, POOL, SERVER), answer) };
    header.packet(&icmp(kind, code, word, quoted))
}

/// An ICMPv6 error of the translator.
fn error6(kind: u8, code: u8, word: u32, about: &[u8], answer: &[u8]) -> Vec<u8> {
    let quoted = &about[..about.len().min(1280 - 48)];
    Ip6 { hops: answer[7], ..Ip6::new(ICMPV6, translator6(), client()) }.packet(&icmp(kind, code, word, quoted))
}
