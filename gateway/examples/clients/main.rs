//! Thousands of IP-HTTPS clients in one process, for measurements and tests: `clients CONFIG.json`, and the intranet's end
//! of their traffic: `clients respond ADDRESS:PORT`.
//!
//! Each client dials, does its TLS handshake, asks for a tunnel, makes an address from the advertised prefix, probes it,
//! and proves with one echo that packets pass. The configuration is [`crowd::Config`]. Commands are lines of JSON on
//! standard input, each answered with one line; end of file ends the program:
//! * `{"op":"connect","count":1000}` lets more clients come;
//! * `{"op":"disconnect","count":10,"how":"close"}` (or `abort`) makes the oldest leave;
//! * `{"op":"profile","from":0,"to":100,"profile":{"kind":"ping","interval_ms":1000}}` changes what clients do; without
//!   `to` also what those do that come later. Profiles are [`traffic::Profile`];
//! * `{"op":"churn","per_second":5}` replaces clients all the time, every second one without a goodbye;
//! * `{"op":"state"}`, `{"op":"figures","reset":true}`, `{"op":"addresses"}` tell.
//!
//! Lines that begin with `{"progress"` come every `progress_seconds`.

mod client;
mod connection;
mod crowd;
mod figures;
mod respond;
mod traffic;

use std::io::BufRead;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use client::Leave;
use crowd::Crowd;
use traffic::Profile;

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    Connect {
        count: u32,
    },
    Disconnect {
        count: usize,
        #[serde(default)]
        how: How,
    },
    Profile {
        #[serde(default)]
        from: usize,
        to: Option<usize>,
        profile: Profile,
    },
    Churn {
        per_second: f64,
    },
    State,
    Figures {
        #[serde(default)]
        reset: bool,
    },
    Addresses,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    #[default]
    Close,
    Abort,
}

fn obey(crowd: &Crowd, line: &str) -> Value {
    let command = match serde_json::from_str(line) {
        Ok(command) => command,
        Err(error) => return json!({"error": error.to_string()}),
    };
    match command {
        Command::Connect { count } => crowd.connect(count),
        Command::Disconnect { count, how } => {
            let how = match how {
                How::Close => Leave::Close,
                How::Abort => Leave::Abort,
            };
            return json!({"disconnected": crowd.disconnect(count, how)});
        }
        Command::Profile { from, to, profile } => crowd.use_profile(profile, from, to),
        Command::Churn { per_second } => crowd.churn.set(per_second),
        Command::State => return crowd.state(),
        Command::Figures { reset } => {
            let mut all = crowd.figures.borrow().json();
            all["state"] = crowd.state();
            if reset {
                *crowd.figures.borrow_mut() = figures::Figures::begin();
            }
            return all;
        }
        Command::Addresses => return json!(crowd.addresses()),
    }
    json!({"ok": true})
}

async fn serve(crowd: Rc<Crowd>) {
    // A thread of its own: standard input cannot be polled when it is a file.
    let (sender, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    tokio::task::spawn_local(Rc::clone(&crowd).welcome());
    tokio::task::spawn_local(Rc::clone(&crowd).turn_over());
    let progress = crowd.config.progress_seconds;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(if progress > 0.0 { progress } else { 3600.0 }));
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => println!("{}", obey(&crowd, &line)),
                None => return,
            },
            _ = ticks.tick() => if progress > 0.0 {
                println!("{}", json!({"progress": crowd.state()}));
            },
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["respond", address] => return Ok(respond::respond(address.parse()?)?),
        [path] => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            let config = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
            let crowd = Rc::new(Crowd::new(config)?);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            println!("{}", json!({"ready": true}));
            LocalSet::new().block_on(&runtime, serve(crowd));
        }
        _ => return Err("usage: clients CONFIG.json | clients respond ADDRESS:PORT".into()),
    }
    // Sockets are closed by the system; saying goodbye ten thousand times takes longer than anybody wants to wait.
    std::process::exit(0)
}
