//! Where PostgreSQL's programs are. Distributions keep them in different places, and Debian keeps `initdb` and `postgres`
//! out of `PATH`, so that several versions can be there side by side.

use std::{
    cmp::Reverse,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the product promises to work with.
const VERSION_MIN: u32 = 15;

/// The folder with the programs of a version that is new enough.
pub(crate) struct Installation {
    folder: PathBuf,
    /// What `postgres --version` says.
    pub(crate) version: String,
}

impl Installation {
    /// The first that is new enough: on `PATH`, where Debian keeps them (newest first), where `pg_config` says.
    pub(crate) fn find() -> Self {
        Self::among(on_path().into_iter().chain(of_debian()).chain(by_pg_config()))
    }

    fn among(folders: impl Iterator<Item = PathBuf>) -> Self {
        folders
            .filter(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
            .find_map(|folder| {
                let version = said(Command::new(folder.join("postgres")).arg("--version"))?;
                (major(&version)? >= VERSION_MIN).then_some(Self { folder, version })
            })
            .unwrap_or_else(|| {
                panic!("no PostgreSQL {VERSION_MIN} or later found; install PostgreSQL: scripts/test --setup")
            })
    }

    /// The path of one of its programs. The folder may hold links to some of them.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        match fs::canonicalize(self.folder.join("postgres")) {
            Ok(postgres) if !path.exists() => postgres.with_file_name(name),
            _ => path,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "where programs are found is no setting of ours")]
fn on_path() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

fn of_debian() -> impl Iterator<Item = PathBuf> {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    versions.sort_by_key(|version| Reverse(version.parse::<u32>().unwrap_or(0)));
    versions.into_iter().map(|version| Path::new("/usr/lib/postgresql").join(version).join("bin"))
}

fn by_pg_config() -> Option<PathBuf> {
    said(Command::new("pg_config").arg("--bindir")).map(PathBuf::from)
}

/// What a program prints, if it can be run.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// 15 of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, 19 of `postgres (PostgreSQL) 19beta1`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once(") ")?.1;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Installation, major};

    #[test]
    fn releases_and_previews_have_a_major_version() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(major("postgres (PostgreSQL) 20"), Some(20));
        assert_eq!(major("something else"), None);
    }

    #[test]
    #[should_panic(expected = "install PostgreSQL: scripts/test --setup")]
    fn a_machine_without_postgresql_is_told_what_to_do() {
        Installation::among(std::iter::once("/nonexistent".into()));
    }
}
