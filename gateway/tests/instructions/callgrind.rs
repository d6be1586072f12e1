//! Runs a part of this very program under callgrind and reads what it counted.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// The function before which callgrind writes a part of its profile.
pub const MARK: &str = "portico_mark";

/// Ends a part of the profile.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn portico_mark(part: u32) -> u32 {
    std::hint::black_box(part)
}

/// Runs one test of this program under callgrind; profiles go into `directory`. Returns what the test printed.
pub fn run(test: &str, directory: &Path) -> String {
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--dump-line=no", "--collect-jumps=no"])
        .arg(format!("--dump-before={MARK}"))
        .arg(format!("--callgrind-out-file={}", directory.join("profile").display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        .output();
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            panic!("instructions are counted by valgrind, which cannot be run ({error}): apt install valgrind")
        }
    };
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}: {out}{err}", done.status);
    out.into_owned()
}

/// Instructions of Rust code in one part of the profile. Ciphers are left out, and so is what the C library does
/// (copying, mostly): both choose their code by the processor.
pub fn own_instructions(profile: &str) -> u64 {
    // Numbered apart.
    let (mut objects, mut functions) = (HashMap::new(), HashMap::new());
    let mut total = 0;
    let (mut object, mut function) = ("", "");
    let mut inclusive = false;
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            object = resolved(&mut objects, name);
        } else if let Some(name) = line.strip_prefix("fn=") {
            function = resolved(&mut functions, name);
        } else if let Some(name) = line.strip_prefix("cob=") {
            // Only to learn the name behind its number, here and below.
            resolved(&mut objects, name);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            resolved(&mut functions, name);
        } else if line.starts_with("calls=") {
            inclusive = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_ascii_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            if !std::mem::take(&mut inclusive) && is_ours(object, function) {
                total += cost;
            }
        }
    }
    total
}

/// The ciphers are C and assembler: their names are no paths.
fn is_ours(object: &str, function: &str) -> bool {
    function.contains("::") && std::env::current_exe().is_ok_and(|this| Path::new(object) == this)
}

/// Names are written once, as `(number) name`, and then only as `(number)`.
fn resolved<'a>(names: &mut HashMap<&'a str, &'a str>, text: &'a str) -> &'a str {
    match text.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(text).copied().unwrap_or(""),
    }
}
