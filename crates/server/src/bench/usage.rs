//! What processes cost, read from `/proc`: CPU time and memory of a process with everything that came from it.
//!
//! A database is many processes: CPU time is summed over the tree below its root, including children that ended and
//! were waited for, so that connections which come and go are not forgotten. Memory that processes share is counted
//! once: the sum of proportional set sizes, or where those may not be read, of what each has for itself and the
//! largest share. Where there is no `/proc`, there are no figures; nothing is estimated.

use std::{
    collections::HashSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

/// How often a tree's memory is read: the kernel walks through all its pages for it.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// Its id.
    pub(crate) pid: u32,
    /// The first 15 bytes of its program's name.
    pub(crate) name: String,
    /// Who started it.
    pub(crate) parent: u32,
    /// CPU time in clock ticks: its own and that of children which were waited for.
    pub(crate) ticks: u64,
}

impl ProcessStat {
    /// Reads one; `None` if there is no such process.
    pub(crate) fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `42 (a name) S 1 …`: see proc(5). The name may hold blanks and brackets.
    fn parse(text: &str) -> Option<Self> {
        let (before, rest) = text.rsplit_once(')')?;
        let (pid, name) = before.split_once('(')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let ticks: Option<Vec<u64>> = fields.get(11..15)?.iter().map(|field| field.parse().ok()).collect();
        Some(Self {
            pid: pid.trim().parse().ok()?,
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks?.iter().sum(),
        })
    }
}

/// Every process that can be seen.
pub(crate) fn processes() -> Vec<ProcessStat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| ProcessStat::read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// CPU time so far of a process and all below it; `None` if it is not there.
pub(crate) fn cpu_time(root: u32) -> Option<Duration> {
    duration(tree(root, processes())?.iter().map(|process| process.ticks).sum())
}

/// CPU time so far of this process without those that it started.
pub(crate) fn own_cpu_time() -> Option<Duration> {
    ProcessStat::read(std::process::id()).and_then(|process| duration(process.ticks))
}

fn duration(ticks: u64) -> Option<Duration> {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_secs(ticks) / u32::try_from(per_second).ok()?)
}

fn tree(root: u32, all: Vec<ProcessStat>) -> Option<Vec<ProcessStat>> {
    all.iter().find(|process| process.pid == root)?;
    let mut inside = HashSet::from([root]);
    loop {
        let count = inside.len();
        let children =
            all.iter().filter(|process| inside.contains(&process.parent)).map(|process| process.pid);
        let children: Vec<u32> = children.collect();
        inside.extend(children);
        if inside.len() == count {
            return Some(all.into_iter().filter(|process| inside.contains(&process.pid)).collect());
        }
    }
}

/// The most memory that a process had resident so far, in bytes.
pub(crate) fn resident_peak(pid: u32) -> Option<u64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:").map(|kib| kib * 1024)
}

/// Begins [`resident_peak`] anew for this process. Where the kernel does not let us, the peak is that of its life.
pub(crate) fn forget_own_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The value of a line such as `VmHWM:    1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What each process of a tree has for itself, and the largest share of what they have in common once, in bytes. The
/// kernel's proportional set sizes would say it exactly, but reading them walks all pages of shared memory: looked at
/// four times a second, that took a fifth of the CPU time of all that was measured.
fn tree_memory(root: u32) -> Option<u64> {
    let processes = tree(root, processes())?;
    let (mut private, mut shared) = (0, 0);
    for process in &processes {
        // One that has just ended has no memory.
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", process.pid)) else { continue };
        private += kib(&status, "RssAnon:").unwrap_or(0);
        let sharing = kib(&status, "RssFile:").unwrap_or(0) + kib(&status, "RssShmem:").unwrap_or(0);
        shared = sharing.max(shared);
    }
    Some((private + shared) * 1024)
}

/// Looks at the memory of a tree of processes again and again, until it is dropped.
pub(crate) struct MemoryWatch {
    peak_bytes: Arc<AtomicU64>,
    _looking: JoinSet<()>,
}

impl MemoryWatch {
    /// Begins.
    pub(crate) fn start(root: u32) -> Self {
        let peak_bytes = Arc::new(AtomicU64::new(0));
        let mut looking = JoinSet::new();
        let noted = Arc::clone(&peak_bytes);
        looking.spawn(async move {
            let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
            loop {
                ticks.tick().await;
                let looked = tokio::task::spawn_blocking(move || tree_memory(root)).await;
                if let Ok(Some(bytes)) = looked {
                    noted.fetch_max(bytes, Ordering::Relaxed);
                }
            }
        });
        Self { peak_bytes, _looking: looking }
    }

    /// The most that was seen, in bytes; `None` if nothing could be seen.
    pub(crate) fn peak(&self) -> Option<u64> {
        Some(self.peak_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: u32, parent: u32, ticks: u64) -> ProcessStat {
        ProcessStat { pid, name: "postgres".into(), parent, ticks }
    }

    #[test]
    fn names_with_blanks_and_brackets_do_not_shift_the_fields() {
        let fields = "S 7 1 1 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 5 6 7";
        let expected = ProcessStat { pid: 42, name: "a) (b".into(), parent: 7, ticks: 124 };
        assert_eq!(ProcessStat::parse(&format!("42 (a) (b) {fields}")), Some(expected));
        for broken in ["", "42", "42 (a) S 7", "42 (a S 7 1 1"] {
            assert_eq!(ProcessStat::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_tree_is_what_came_from_its_root() {
        let all = vec![stat(30, 20, 1), stat(1, 0, 1), stat(20, 10, 1), stat(10, 1, 1), stat(11, 1, 1)];
        let pids =
            |root| tree(root, all.clone()).map(|found| found.iter().map(|p| p.pid).collect::<Vec<_>>());
        assert_eq!(pids(10), Some(vec![30, 20, 10]));
        assert_eq!(pids(11), Some(vec![11]));
        assert_eq!(pids(99), None);
    }

    #[test]
    fn sizes_are_read_by_name() {
        let status = "Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t    1234 kB\nRssAnon:\t 7 kB\n";
        assert_eq!(
            [kib(status, "VmHWM:"), kib(status, "RssAnon:"), kib(status, "RssFile:")],
            [Some(1234), Some(7), None]
        );
    }

    #[test]
    fn a_process_that_works_is_seen_to_cost_time_and_memory() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while cpu_time(std::process::id()).unwrap() <= before {
            assert!(std::time::Instant::now() < deadline);
            sum = std::hint::black_box((0..1_000_000_u64).fold(sum, u64::wrapping_add));
        }
        assert!(resident_peak(std::process::id()).unwrap() > 1024 * 1024);
        let bytes = tree_memory(std::process::id()).unwrap();
        assert!(bytes > 1024 * 1024, "{bytes}");
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
