//! The process beside a cluster that removes it when nobody uses it any more. A shell process, since it must outlive the
//! test, and since a test has no other program at hand that it could start.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::home::Home;

const SCRIPT: &str = include_str!("watchdog.sh");

/// Starts the watchdog of `home`. It holds `guard` open, and with it the lock on it, until it has ended.
pub(crate) fn start(home: &Home, guard: File, idle: Duration) -> Child {
    Command::new("/bin/sh")
        .args(["-c", SCRIPT, "neo-events-test-postgres-watchdog"])
        .arg(home.path())
        .arg(idle.as_secs().to_string())
        .current_dir("/")
        // Whatever ends the group of the test's processes must leave it alone.
        .process_group(0)
        .stdin(guard)
        .stdout(home.open_lease().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
