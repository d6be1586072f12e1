//! What the process is of no use without. A gateway that lost a thread, or a task that reads packets or takes connections,
//! would look alive and serve some of its clients: those whom the kernel gives to it would wait until they give up. It
//! ends instead, and whoever started it starts it again.

/// The exit status: EX_SOFTWARE of sysexits.h.
pub const DEFECT: i32 = 70;

/// To be kept for as long as the thread or task runs. What it holds is what it is, for the log.
#[derive(Debug)]
pub struct Vital(pub &'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("a defect ended what {}: the process ends, to be started again", self.0);
            // SAFETY: it does not return. Nothing of the process is worth being unwound or flushed: descriptors close.
            unsafe { libc::_exit(DEFECT) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "VITAL_THREAD_PANICS";

    #[test]
    fn the_process_ends_with_a_vital_thread() {
        if let Ok(vital) = std::env::var(CHILD) {
            let body = move || {
                let _vital = (vital == "1").then(|| Vital("is tested"));
                panic!("a defect");
            };
            assert!(std::thread::spawn(body).join().is_err());
            return;
        }
        for (vital, status) in [("1", DEFECT), ("0", 0)] {
            let name = "io::vital::tests::the_process_ends_with_a_vital_thread";
            let mut child = Command::new(std::env::current_exe().unwrap());
            let ended = child.args(["--exact", name, "--nocapture"]).env(CHILD, vital).output().unwrap();
            assert_eq!(ended.status.code(), Some(status));
            let said = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(said.contains("a defect ended what is tested"), vital == "1");
        }
    }
}
