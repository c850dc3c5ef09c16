//! The account that servers run as. PostgreSQL refuses to run as root, and tests often do: in containers, in CI.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::Command,
};

/// Who owns the files of a cluster and runs its server.
#[derive(Clone, Copy)]
pub(crate) enum Account {
    /// We are not root: ourselves.
    Own { uid: u32, gid: u32 },
    /// We are root: somebody without privileges.
    Unprivileged { uid: u32, gid: u32 },
}

impl Account {
    pub(crate) fn choose() -> Self {
        let own = rustix::process::geteuid();
        if !own.is_root() {
            return Self::Own { uid: own.as_raw(), gid: rustix::process::getegid().as_raw() };
        }
        let accounts = fs::read_to_string("/etc/passwd").expect("the list of accounts");
        let (uid, gid) = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| ids(&accounts, name))
            .expect("an account without privileges, since PostgreSQL refuses to run as root");
        Self::Unprivileged { uid, gid }
    }

    pub(crate) fn uid(self) -> u32 {
        self.ids().0
    }

    /// User and group.
    pub(crate) fn ids(self) -> (u32, u32) {
        let (Self::Own { uid, gid } | Self::Unprivileged { uid, gid }) = self;
        (uid, gid)
    }

    /// Makes `path`, which we have created, the account's.
    pub(crate) fn give(self, path: &Path) {
        if let Self::Unprivileged { uid, gid } = self {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Lets `command` run as the account, without our supplementary groups.
    pub(crate) fn run(self, command: &mut Command) {
        if let Self::Unprivileged { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }
}

/// User and group of the account `name` in the format of passwd(5).
fn ids(accounts: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields =
        accounts.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
    Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::ids;

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let accounts =
            "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:Admin,,,:/var:/bin/sh\n";
        assert_eq!(ids(accounts, "postgres"), Some((101, 104)));
        assert_eq!(ids(accounts, "nobody"), None);
    }
}
