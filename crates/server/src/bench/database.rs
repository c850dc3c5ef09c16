//! Where the server under test keeps its data, and which processes work for it.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use neo_events::rusqlite;
use tokio_postgres::{NoTls, config::Host};

use super::usage::{ProcessStat, processes};
use crate::cli::failure::with_causes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POSTGRES: &str = "postgres";

/// Which database, as the command line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Database {
    /// A `SQLite` file of the bench's own, gone afterwards.
    Temporary,
    /// A `SQLite` file that stays.
    Sqlite {
        /// As given: `sqlite:PATH`.
        setting: String,
        /// The file.
        path: PathBuf,
    },
    /// A `PostgreSQL` database.
    Postgres {
        /// As given: `postgres://…`. May hold a password.
        url: String,
        /// Its first process, if somebody knows it.
        root: Option<u32>,
    },
}

impl Database {
    /// Reads `sqlite:PATH` or `postgres://…`; the server judges the rest.
    pub(crate) fn parse(setting: Option<String>, root: Option<u32>) -> Result<Self, &'static str> {
        let Some(setting) = setting else {
            return if root.is_none() { Ok(Self::Temporary) } else { Err(NO_PROCESS) };
        };
        if setting.starts_with("postgres:") || setting.starts_with("postgresql:") {
            return Ok(Self::Postgres { url: setting, root });
        }
        let path = setting.strip_prefix("sqlite:").ok_or("--database must be sqlite:PATH or postgres://…")?;
        if root.is_some() {
            return Err(NO_PROCESS);
        }
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        Ok(Self::Sqlite { setting, path })
    }

    /// Connects, if that is needed, to see what it is.
    pub(crate) async fn look(&self) -> DatabaseFacts {
        match self {
            Self::Temporary => sqlite("a temporary file"),
            Self::Sqlite { .. } => sqlite("the file given"),
            Self::Postgres { url, root } => postgres(url, *root).await,
        }
    }
}

const NO_PROCESS: &str = "--database-pid is for PostgreSQL: SQLite works inside the server's process";

/// What there is to say about a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatabaseFacts {
    /// Product, version, and where.
    pub(crate) description: String,
    /// The process that all its others come from; `None` where it has none or it cannot be told.
    pub(crate) root: Option<u32>,
    /// Why there is none, or how it was found.
    pub(crate) processes: String,
}

fn sqlite(place: &str) -> DatabaseFacts {
    DatabaseFacts {
        description: format!("SQLite {} in {place}", rusqlite::version()),
        root: None,
        processes: "inside the server's process".to_owned(),
    }
}

async fn postgres(url: &str, given: Option<u32>) -> DatabaseFacts {
    let asked = tokio::time::timeout(CONNECT_TIMEOUT, ask(url)).await;
    let (version, asked_root) = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (format!("(version unknown: {})", with_causes(&error)), None),
        Err(_) => ("(version unknown: no answer)".to_owned(), None),
    };
    let (root, found) = match given {
        Some(pid) => (Some(pid), "as given"),
        None if !is_local(url) => (None, "on another machine"),
        None => match asked_root.or_else(|| only_root(&processes())) {
            Some(pid) => (Some(pid), "found on this machine"),
            None => (None, "not found on this machine; --database-pid names the first of them"),
        },
    };
    DatabaseFacts { description: format!("PostgreSQL {version}"), root, processes: found.to_owned() }
}

/// Version, and the parent of the process that serves the connection, while it does.
async fn ask(url: &str) -> Result<(String, Option<u32>), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let question = "select current_setting('server_version'), pg_backend_pid()";
    let answer = async move {
        let row = client.query_one(question, &[]).await?;
        let backend = u32::try_from(row.try_get::<_, i32>(1)?).ok();
        Ok((row.try_get(0)?, backend.and_then(parent_of_backend)))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answered = answer.as_mut() => answered,
        // When it ends first, what it read is still to be taken.
        _ = connection => answer.await,
    }
}

fn is_local(url: &str) -> bool {
    let Ok(config) = url.parse::<tokio_postgres::Config>() else { return false };
    let is_here = |host: &Host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(is_here) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// The parent of the process that served us, if both are what they should be: in a container the ids are others.
fn parent_of_backend(backend: u32) -> Option<u32> {
    let backend = ProcessStat::read(backend)?;
    let parent = ProcessStat::read(backend.parent)?;
    (backend.name == POSTGRES && parent.name == POSTGRES).then_some(parent.pid)
}

/// The one process of that name which others of that name come from, and which comes from none; `None` of several.
fn only_root(all: &[ProcessStat]) -> Option<u32> {
    let named: Vec<&ProcessStat> = all.iter().filter(|process| process.name == POSTGRES).collect();
    let is_parent = |pid| named.iter().any(|process| process.parent == pid);
    let is_child = |parent| named.iter().any(|process| process.pid == parent);
    let mut roots = named.iter().filter(|process| is_parent(process.pid) && !is_child(process.parent));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Some(root.pid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, name: &str) -> ProcessStat {
        ProcessStat { pid, name: name.into(), parent, ticks: 0 }
    }

    #[test]
    fn the_only_postmaster_is_found_and_of_two_neither() {
        let one = [
            process(10, 1, "postgres"),
            process(11, 10, "postgres"),
            process(12, 11, "postgres"),
            process(13, 1, "bash"),
            process(14, 13, "bash"),
            process(15, 1, "postgres"), // the name alone is not enough
        ];
        assert_eq!(only_root(&one), Some(10));
        let two = [&one[..], &[process(20, 1, "postgres"), process(21, 20, "postgres")]].concat();
        assert_eq!(only_root(&two), None);
        assert_eq!(only_root(&[]), None);
    }

    #[test]
    fn databases_on_this_machine_are_told_from_others() {
        for url in ["postgres://localhost/x", "postgres://u:p@127.0.0.1:5433/x", "postgres:///x?host=/tmp"] {
            assert!(is_local(url), "{url}");
        }
        for url in
            ["postgres://db.example/x", "postgres://10.0.0.1/x", "postgres://localhost,db.example/x", "?"]
        {
            assert!(!is_local(url), "{url}");
        }
    }

    #[test]
    fn settings_are_told_apart_and_passed_on_as_they_are() {
        let parse = |setting: &str, root| Database::parse(Some(setting.to_owned()), root);
        let file = |setting: &str| Database::Sqlite { setting: setting.into(), path: "/a/b".into() };
        assert_eq!(parse("sqlite:/a/b", None), Ok(file("sqlite:/a/b")));
        assert_eq!(parse("sqlite:///a/b", None), Ok(file("sqlite:///a/b")));
        let url = "postgres://u:p@h/x?y=z".to_owned();
        assert_eq!(parse(&url, Some(7)), Ok(Database::Postgres { url, root: Some(7) }));
        assert_eq!(Database::parse(None, None), Ok(Database::Temporary));
        for (setting, root) in [(Some("mysql:x"), None), (Some("sqlite:x"), Some(7)), (None, Some(7))] {
            assert!(Database::parse(setting.map(str::to_owned), root).is_err(), "{setting:?}");
        }
    }
}
