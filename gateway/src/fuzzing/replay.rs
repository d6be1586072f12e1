//! The committed corpora, run in every test run: each seed as it is, then changed a fixed number of times.
//!
//! The changes come from a generator with a fixed seed, so a failure here is a failure everywhere. `floor.txt` beside
//! the corpora names the kinds of outcome that must be reached; one that is missing says that seeds were lost or that
//! the code can no longer do what it could.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::{Outcomes, TARGETS, run};
use crate::core::iphttps::DropReason;
use crate::core::nat64::Reason;

/// Changed copies of each seed.
const MUTATIONS: u64 = 24;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// A target's seeds by name, in the order of their names.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let directory = directory().join("corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let read = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a readable seed"))
    };
    entries.map(|entry| read(entry.expect("a directory entry"))).collect()
}

/// splitmix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// The seed with one to four changes: a byte set, a bit turned, a piece cut out, doubled or taken from another seed.
fn mutated(seed: &[u8], others: &[&[u8]], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(6) {
            _ if bytes.is_empty() => bytes.push(numbers.next() as u8),
            0 => bytes[at] = numbers.next() as u8,
            1 => bytes[at] ^= 1 << numbers.below(8),
            2 => bytes[at] = [0, 1, 127, 128, 255][numbers.below(5)],
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = others[numbers.below(others.len())];
                let from = numbers.below(other.len());
                let piece = &other[from.min(other.len())..other.len().min(from + 32)];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Runs a target's corpus and its mutations; returns what was reached, as `target group.Kind`.
fn replay(target: &str) -> BTreeSet<String> {
    let seeds = corpus(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let others: Vec<&[u8]> = seeds.values().map(Vec::as_slice).collect();
    let mut reached = BTreeSet::new();
    let mut numbers = Numbers(1);
    for (name, seed) in &seeds {
        for round in 0..=MUTATIONS {
            let bytes = if round == 0 { seed.clone() } else { mutated(seed, &others, &mut numbers) };
            let mut outcomes = Outcomes::kept();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(target, &bytes, &mut outcomes)));
            if let Err(panic) = outcome {
                let kept = std::env::temp_dir().join(format!("portico-fuzz-{target}-{name}-{round}"));
                fs::write(&kept, &bytes).expect("a writable directory for temporary files");
                eprintln!("{target}: seed {name}, change {round}: kept as {}", kept.display());
                std::panic::resume_unwind(panic);
            }
            reached.extend(outcomes.names().map(|kind| format!("{target} {kind}")));
        }
    }
    reached
}

fn check(target: &str) {
    let reached = replay(target);
    let text = fs::read_to_string(directory().join("floor.txt")).expect("gateway/fuzz/floor.txt");
    let prefix = format!("{target} ");
    let missing: Vec<&str> =
        text.lines().filter(|line| line.starts_with(&prefix) && !reached.contains(*line)).collect();
    assert!(
        missing.is_empty(),
        "the corpus of {target} no longer reaches {missing:?}; add seeds that do (make fuzz finds them), or take the \
         lines out of gateway/fuzz/floor.txt when the code has lost these outcomes on purpose"
    );
    assert!(text.lines().any(|line| line.starts_with(&prefix)), "floor.txt says nothing about {target}");
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(#[test] fn $target() { check(stringify!($target)); })*

        #[test]
        fn every_target_is_replayed() {
            let here: BTreeSet<&str> = [$(stringify!($target)),*].into();
            assert_eq!(here, TARGETS.iter().map(|(name, _)| *name).collect());
            for (name, _) in TARGETS {
                assert!(directory().join(format!("fuzz_targets/{name}.rs")).exists(), "no fuzz target {name}");
            }
        }
    };
}

replays! {
    ipv4 ipv6 tcp udp icmpv4 icmpv6 ndp http_request http_response segment_header virtio segments deframer dns_message
    dns_answer certificate config tls_records nat64 iphttps client dns64
}

/// Writes floor.txt anew: `PORTICO_WRITE_FLOOR=1 cargo test --lib fuzzing::replay::floor`.
#[test]
fn floor_is_written_on_demand() {
    if std::env::var_os("PORTICO_WRITE_FLOOR").is_none() {
        return;
    }
    let head = "# Kinds of outcome that the corpora reach, `target group.Kind`. Lines may be added by \
                `PORTICO_WRITE_FLOOR=1\n# cargo test --lib floor_is_written`; `cargo test` fails when one is no longer reached.\n";
    let lines: BTreeSet<String> = TARGETS.iter().flat_map(|(name, _)| replay(name)).collect();
    let text = lines.iter().fold(head.to_owned(), |text, line| text + line + "\n");
    fs::write(directory().join("floor.txt"), text).expect("a writable floor.txt");
}

/// Every reason for which the cores refuse a packet or close a session is reached, but for those that need a state that
/// no input can bring about; each of these says why.
#[test]
fn every_reason_is_reached_or_excused() {
    let text = fs::read_to_string(directory().join("floor.txt")).expect("gateway/fuzz/floor.txt");
    let missing = |group: &str, name: String, excused: &[&str]| {
        let reached = text.lines().any(|line| line == format!("{group}.{name}"));
        (!reached && !excused.contains(&name.as_str())).then(|| format!("{group}.{name}"))
    };
    let nat64 = Reason::ALL.iter().filter_map(|reason| {
        // The run always gives a frame enough room; its configurations restrict nobody, so that the corpora keep their
        // meaning.
        missing("nat64 reason", format!("{reason:?}"), &["NoRoom", "Unauthenticated"])
    });
    let drops = DropReason::ALL.iter().filter_map(|reason| {
        // The run hangs up on a session as soon as it is evicted; 20,000 copies are more than it sends.
        missing("iphttps drop", format!("{reason:?}"), &["Evicted", "MulticastRate"])
    });
    let missing: Vec<String> = nat64.chain(drops).collect();
    assert!(missing.is_empty(), "not reached by the corpora: {missing:?}");
}
