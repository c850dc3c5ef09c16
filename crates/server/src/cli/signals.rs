//! The signals that end a command: SIGINT (Ctrl-C) and SIGTERM, and for one that belongs to a terminal SIGHUP.

use std::fs;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for them from the moment it is made.
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    /// Where the system does not let us listen, its default stays: the process ends at once.
    pub(crate) fn new() -> Self {
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
            hang_up: None,
        }
    }

    /// Also for the end of the terminal, unless whoever started the process wants it to outlive that (`nohup`).
    pub(crate) fn of_terminal() -> Self {
        let hang_up = if ignores_hang_up() { None } else { signal(SignalKind::hangup()).ok() };
        Self { hang_up, ..Self::new() }
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            () = received(&mut self.interrupt) => {}
            () = received(&mut self.terminate) => {}
            () = received(&mut self.hang_up) => {}
        }
    }
}

/// As the process was started. Where the system does not tell, it does not.
fn ignores_hang_up() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
