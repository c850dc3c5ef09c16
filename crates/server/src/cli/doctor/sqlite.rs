//! What is looked at on a file of SQLite and the folder it is in.

use std::path::Path;

use neo_events::maintenance::{self, FileFacts, UnreadableFile};

use super::{NeededKey, finding::Findings, postgres::migrations_told};
use crate::cli::failure::with_causes;

const MIB: u64 = 1024 * 1024;
/// Below this little can be written for long.
const SPACE_WARNING: u64 = 1024 * MIB;
/// Below this the write-ahead log alone may not find room.
const SPACE_PROBLEM: u64 = 100 * MIB;

/// Of the bits that `chmod` sets: what the file's group and everybody may do.
const RIGHTS_OF_OTHERS: u32 = 0o077;

/// Looks at a file. Answers which master key is needed.
pub(super) fn check(findings: &mut Findings, path: &Path, is_deep: bool) -> NeededKey {
    let key = match maintenance::inspect_sqlite(path, is_deep) {
        Ok(Some(facts)) => {
            check_file(findings, path, &facts, is_deep);
            NeededKey { is_needed: facts.needs_its_key, noted: facts.noted_key }
        }
        Ok(None) => {
            findings.ok("database", format!("{} is not there; serve makes it", path.display()));
            NeededKey::default()
        }
        Err(error) => {
            let advice = "no server can work with it until that is mended";
            findings.problem("database", with_causes(&error), advice);
            NeededKey::default()
        }
    };
    check_folder(findings, path);
    check_space(findings, path);
    key
}

fn check_file(findings: &mut Findings, path: &Path, facts: &FileFacts, is_deep: bool) {
    let in_use = if facts.is_in_use { "a server has it open" } else { "nobody has it open" };
    findings.ok("database", format!("{}; {in_use}", path.display()));
    check_permissions(findings, path, facts.mode);
    if facts.writes_ahead {
        findings.ok("journal", "write-ahead log");
    } else {
        let advice = "serve changes it when it starts; if it stays, put the file on a local disk";
        findings.warning("journal", "no write-ahead log: readers and the writer block each other", advice);
    }
    let behind = facts.migrations.iter().filter(|status| status.is_behind()).count();
    migrations_told(findings, behind, facts.migrations.len());
    if let Some(missing) = facts.missing.first() {
        let detail =
            format!("{} of a tenant are gone or empty, the first {}", facts.missing.len(), missing.display());
        let advice = "put the files back, from a backup if need be: serve does not make them anew";
        findings.problem("tenant files", detail, advice);
    }
    if let Some(UnreadableFile { error, .. }) = facts.unreadable.first() {
        let detail = format!(
            "{} of a tenant cannot be read, the first: {}",
            facts.unreadable.len(),
            with_causes(error)
        );
        let advice = "until that is mended these tenants are not served; the others are";
        findings.problem("tenant files", detail, advice);
    }
    match facts.faults.first() {
        Some((path, fault)) => {
            let detail = format!("{} faults, the first in {}: {fault}", facts.faults.len(), path.display());
            let advice = "restore a backup, or recover what is left with the sqlite3 shell's .recover";
            findings.problem("integrity", detail, advice);
        }
        None if is_deep && facts.unreadable.is_empty() => findings.ok("integrity", "every page is sound"),
        None => {}
    }
}

fn check_permissions(findings: &mut Findings, path: &Path, mode: u32) {
    const CHECK: &str = "permissions";
    if rustix::fs::access(path, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_err() {
        let advice = "give this user write permission for the file and its folder";
        findings.problem(CHECK, format!("{mode:04o}: this user may not write it"), advice);
    } else if mode & RIGHTS_OF_OTHERS == 0 {
        findings.ok(CHECK, format!("{mode:04o}: its owner's alone"));
    } else {
        let advice = "others of this machine can read events and, with the key, secrets: chmod 600";
        findings.warning(CHECK, format!("{mode:04o}"), advice);
    }
}

/// The database makes files beside the one that is named, and where there is none yet, the folder too.
fn check_folder(findings: &mut Findings, path: &Path) {
    const CHECK: &str = "folder";
    const ADVICE: &str = "give this user write permission for it, or name another place with --database";
    let folder = nearest_folder(path);
    let shown = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let shown = shown.display();
    if !folder.is_dir() {
        return findings.problem(CHECK, format!("{shown} is no folder"), ADVICE);
    }
    let rights = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::access(folder, rights) {
        Ok(()) => findings.ok(CHECK, format!("{shown}; this user may write there")),
        Err(_) => findings.problem(CHECK, format!("{shown}: this user may not write there"), ADVICE),
    }
}

/// The nearest that is there.
fn nearest_folder(path: &Path) -> &Path {
    let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn check_space(findings: &mut Findings, path: &Path) {
    const CHECK: &str = "disk space";
    let folder = nearest_folder(path);
    let free = match rustix::fs::statvfs(folder) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => {
            return findings.warning(CHECK, format!("cannot be told: {error}"), "see df for the folder");
        }
    };
    judge_space(findings, free);
}

fn judge_space(findings: &mut Findings, free: u64) {
    const CHECK: &str = "disk space";
    const ADVICE: &str = "make room: when it is full, nothing can be published";
    let detail = format!("{} MiB free", free / MIB);
    if free < SPACE_PROBLEM {
        findings.problem(CHECK, detail, ADVICE);
    } else if free < SPACE_WARNING {
        findings.warning(CHECK, detail, ADVICE);
    } else {
        findings.ok(CHECK, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Status, *};

    #[test]
    fn little_space_is_told_before_there_is_none() {
        for (mib, expected) in [(99, Status::Problem), (500, Status::Warning), (2000, Status::Ok)] {
            let mut findings = Findings::default();
            judge_space(&mut findings, mib * MIB);
            assert_eq!(findings.all()[0].status, expected, "{mib} MiB");
        }
    }
}
