//! The processes of a cluster. Every one of them, from `initdb` to the last backend, has the data folder as its working
//! directory, which also holds after the server's parent is gone, and for no process of anybody else.
//! And the one thing of theirs that outlives them: a segment of shared memory, if they are killed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);

/// The processes whose working directory is `data`.
pub(crate) fn of(data: &Path) -> Vec<Pid> {
    let Ok(data) = fs::metadata(data) else { return vec![] };
    let is_there = |pid: &Pid| {
        // Those that have ended, or are others', cannot be looked at.
        fs::metadata(format!("/proc/{}/cwd", pid.as_raw_nonzero()))
            .is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (data.dev(), data.ino()))
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .filter(is_there)
        .collect()
}

/// Sends all of them a signal. One that has ended in the meantime is no failure.
pub(crate) fn signal(data: &Path, signal: Signal) {
    for pid in of(data) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills them all, also those that are being started, and removes what they leave in memory.
pub(crate) fn kill(data: &Path) {
    let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    until("killed", || {
        signal(data, Signal::KILL);
        of(data).is_empty()
    });
    remove_shared_memory(&pid_file);
}

/// A machine has a limited number of segments. The next server on the same data would remove it, but there may be none.
fn remove_shared_memory(pid_file: &str) {
    // Line 7: key and id. They may be of a time before the machine's last start, and another's by now.
    let Some(segment) = pid_file.lines().nth(6).map(|line| line.split_whitespace().collect::<Vec<_>>())
    else {
        return;
    };
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    // Key, id, permissions, size, creator, last user, how many are attached.
    let is_unused = segments
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|fields| fields.starts_with(&segment) && fields.get(6) == Some(&"0"));
    if is_unused {
        assert!(Command::new("ipcrm").args(["-m", segment[1]]).status().unwrap().success());
    }
}

/// Stops them all; when this returns, none of them runs.
pub(crate) fn pause(data: &Path) {
    until("paused", || {
        signal(data, Signal::STOP);
        of(data).into_iter().all(is_stopped)
    });
}

/// Lets them all go on.
pub(crate) fn resume(data: &Path) {
    signal(data, Signal::CONT);
}

fn is_stopped(pid: Pid) -> bool {
    // The state follows the name, which stands in brackets and may contain anything: proc_pid_stat(5).
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
}

fn until(wanted: &str, mut is_done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_done() {
        assert!(Instant::now() < deadline, "the server cannot be {wanted}");
        thread::sleep(Duration::from_millis(2));
    }
}
