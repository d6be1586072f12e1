//! The translator on its own, for benchmarks: `nat64 CONFIG.json IPV6_DEVICE IPV4_DEVICE`.
//!
//! Translates between two TUN devices that it makes, with the kernel's offloads, by the gateway's own core and device code:
//! what it reaches is what NAT64 costs without a tunnel around it. The configuration is the gateway's `nat64` object. Prints
//! `ready` when both devices exist; addresses and routes are the caller's business. Ends with the process.

use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;

use parking_lot::Mutex;
use portico_gateway::core::frame::{BUFFER_SIZE, Frame, HEADROOM, Offload};
use portico_gateway::core::nat64::{Nat64, Verdict};
use portico_gateway::io::clock::Clock;
use portico_gateway::io::config;
use portico_gateway::io::host::HostWriter;
use portico_gateway::io::nat64::Shards;
use portico_gateway::io::stats::HostCounters;
use portico_gateway::io::tun::{Device, Read};

#[path = "common/tun.rs"]
mod tun;

/// Reads of one device before the other gets its turn.
const READS: usize = 64;

/// The way out: each packet goes to the device of its IP version.
struct Writers {
    six: HostWriter,
    four: HostWriter,
}

impl Writers {
    fn write(&mut self, packet: &[u8], offload: Offload) {
        match packet.first().map(|first| first >> 4) {
            Some(4) => self.four.write_packet(packet, offload),
            _ => self.six.write_packet(packet, offload),
        }
    }
}

/// Translates what one device has, a vector at most.
fn take(device: &Device, shard: &Mutex<Nat64>, clock: Clock, buffer: &mut [u8], out: &mut Writers) -> io::Result<()> {
    let mut core = shard.lock();
    for _ in 0..READS {
        let (len, offload) = match device.read(&mut buffer[HEADROOM..])? {
            Read::Empty => break,
            Read::Unusable(_) => continue,
            Read::Packet(len, offload) => (len, offload),
        };
        let mut frame = Frame::new(buffer, HEADROOM, HEADROOM + len, offload);
        let mut pieces = |packet: &[u8]| out.write(packet, Offload::default());
        let verdict = match frame.bytes().first().map(|first| first >> 4) {
            Some(4) => core.from_v4(clock.now(), &mut frame, &mut pieces),
            _ => core.from_v6(clock.now(), &mut frame, &mut pieces),
        };
        if let Verdict::Forward | Verdict::Reply = verdict {
            out.write(frame.bytes(), frame.offload);
        }
    }
    Ok(())
}

async fn translate(devices: [Rc<Device>; 2], shards: Shards, mut out: Writers) -> io::Result<()> {
    let [six, four] = devices;
    let (shard, clock) = (&shards.shards[0], Clock::start());
    let mut buffer = vec![0; BUFFER_SIZE].into_boxed_slice();
    loop {
        tokio::select! {
            ready = six.readable() => ready?,
            ready = four.readable() => ready?,
        }
        take(&six, shard, clock, &mut buffer, &mut out)?;
        take(&four, shard, clock, &mut buffer, &mut out)?;
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, six, four] = arguments.as_slice() else {
        return Err("usage: nat64 CONFIG.json IPV6_DEVICE IPV4_DEVICE".into());
    };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let settings: config::Nat64 = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
    let shards = Shards::new(&settings, 1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let six = Rc::new(Device::new(tun::open(six).map_err(|error| format!("{six}: {error}"))?)?);
    let four = Rc::new(Device::new(tun::open(four).map_err(|error| format!("{four}: {error}"))?)?);
    let counters = Arc::new(HostCounters::default());
    let out =
        Writers { six: HostWriter::new(six.clone(), counters.clone()), four: HostWriter::new(four.clone(), counters) };
    let mut output = io::stdout();
    writeln!(output, "ready")?;
    output.flush()?;
    Ok(runtime.block_on(translate([six, four], shards, out))?)
}
