#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_gateway::fuzzing::{Outcomes, run};

fuzz_target!(|bytes: &[u8]| run("config", bytes, &mut Outcomes::ignored()));
