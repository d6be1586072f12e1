//! Instructions per packet on the main paths, counted and not timed: the same on a busy machine as on an idle one.
//!
//! What is counted is our own code as the tests build it; ciphers and copying are left out. The figures beside this file
//! are what each path cost when somebody last looked at it. A path that grows by more than the tolerance fails; to accept
//! new figures on purpose, run with `PORTICO_ACCEPT_INSTRUCTIONS=1` and commit the file with the reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

// Its queue is for tests of whole gateways.
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;

mod callgrind;
mod packets;
mod paths;
mod translation;

/// Calls that are counted, and those before that fill caches and tables.
pub const ROUNDS: usize = 40;
pub const WARM_UP: usize = 4;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions/baseline.json");
const ACCEPT: &str = "PORTICO_ACCEPT_INSTRUCTIONS";
/// What a path may cost more than the baseline, and what it may cost less before the baseline should follow.
const TOLERANCE: f64 = 0.05;
/// The same with another compiler than the baseline's.
const OTHER_COMPILER: f64 = 0.30;
/// What ten thousand sessions may add to the cost with ten. Hash tables differ in the length of their probes.
const FLAT: f64 = 0.10;

/// Paths whose cost must not depend on how many there are: few, many.
const FLAT_PAIRS: [(&str, &str); 4] = [
    ("from a client: one of 10", "from a client: one of 10,000"),
    ("to a client: one of 10", "to a client: one of 10,000"),
    ("NAT64 to IPv4: one of 10 bindings", "NAT64 to IPv4: one of 20,000 bindings"),
    ("NAT64 to IPv6: one of 10 bindings", "NAT64 to IPv6: one of 20,000 bindings"),
];

fn all() -> Vec<paths::Path<'static>> {
    let [from, to, up, down] = FLAT_PAIRS;
    let mut all = paths::from_client();
    all.extend(paths::from_host());
    all.extend(paths::certificates());
    all.extend(translation::nat64());
    all.extend(translation::dns64());
    all.extend(paths::of_many((from.0, to.0), 10));
    all.extend(paths::of_many((from.1, to.1), 10_000));
    all.extend(translation::bindings((up.0, down.0), 10));
    all.extend(translation::bindings((up.1, down.1), 20_000));
    all
}

#[test]
#[ignore = "the other half of the test below, which runs it under callgrind"]
fn workload() {
    for (index, (name, packets, mut call)) in all().into_iter().enumerate() {
        for _ in 0..WARM_UP {
            call();
        }
        callgrind::portico_mark(2 * index as u32);
        for _ in 0..ROUNDS {
            call();
        }
        callgrind::portico_mark(2 * index as u32 + 1);
        println!("\npath {} {name}", packets * ROUNDS as u64);
    }
}

/// Instructions per packet by path, and the processor time that counting took.
fn count() -> BTreeMap<String, f64> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    // What an earlier run left would be taken for parts of this one.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let printed = callgrind::run("workload", &directory);
    let lines = printed.lines().filter_map(|line| line.strip_prefix("path ")?.split_once(' '));
    lines
        .enumerate()
        .map(|(index, (packets, name))| {
            // Parts are numbered from one; the first, and every second one after, is preparation.
            let part = std::fs::read_to_string(directory.join(format!("profile.{}", 2 * index + 2))).unwrap();
            let each = callgrind::own_instructions(&part) as f64 / packets.parse::<f64>().unwrap();
            (name.to_owned(), (each * 10.0).round() / 10.0)
        })
        .collect()
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let done = std::process::Command::new(rustc).arg("--version").output();
    done.map_or_else(|_| "unknown".to_owned(), |done| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

fn write_baseline(counted: &BTreeMap<String, f64>) {
    let document = serde_json::json!({"compiler": compiler(), "instructions_per_packet": counted});
    std::fs::write(BASELINE, serde_json::to_string_pretty(&document).unwrap() + "\n").unwrap();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn no_path_costs_more_than_it_did_and_none_depends_on_the_number_of_sessions() {
    let counted = count();
    let mut faults = String::new();
    for (few, many) in FLAT_PAIRS {
        let grown = counted[many] / counted[few] - 1.0;
        if grown > FLAT {
            let (a, b) = (counted[few], counted[many]);
            writeln!(faults, "  {many}: {b} instructions a packet, {few}: {a} ({:+.1} %)", grown * 100.0).unwrap();
        }
    }
    assert!(faults.is_empty(), "the cost of a packet depends on how many sessions or bindings there are:\n{faults}");
    if std::env::var_os(ACCEPT).is_some() {
        return write_baseline(&counted);
    }
    let text = std::fs::read_to_string(BASELINE).unwrap_or_else(|error| panic!("{BASELINE}: {error}"));
    let baseline: serde_json::Value = serde_json::from_str(&text).unwrap();
    let same = baseline["compiler"] == compiler();
    let tolerance = if same { TOLERANCE } else { OTHER_COMPILER };
    for (name, &now) in &counted {
        let Some(before) = baseline["instructions_per_packet"][name].as_f64() else {
            writeln!(faults, "  {name}: {now} instructions a packet, and the baseline does not know it").unwrap();
            continue;
        };
        let change = now / before - 1.0;
        println!("{name}: {now} ({:+.1} %)", change * 100.0);
        if change > tolerance {
            writeln!(faults, "  {name}: {before} -> {now} instructions a packet ({:+.1} %)", change * 100.0).unwrap();
        } else if same && change < -TOLERANCE {
            println!("  it costs less now: take it into the baseline with {ACCEPT}=1");
        }
    }
    assert!(
        faults.is_empty(),
        "these paths grew by more than {:.0} %:\n{faults}\
         If that is worth it, accept it with {ACCEPT}=1 cargo test --test instructions, and commit {BASELINE}.",
        tolerance * 100.0
    );
}
