//! A server in a process of its own: started for a mode, asked over HTTP like any other, and ended with it.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use http::{HeaderValue, Method};
use neo_events::{SigningSecret, Sources};
use url::Url;
use uuid::Uuid;

use super::{database::Database, payload::EVENT_TYPE};
use crate::{
    cli::{failure::Failure, session::to_json},
    client::{Call, CallError, Client, ClientOptions},
    settings::{self, AdminKey},
    wire,
};

const START_TIMEOUT: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// What a server promises, and a little.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(17);
/// Of what a server said before it ended.
const LOG_LINES_SHOWN: usize = 8;

/// A server that was started for the bench; killed when dropped.
pub(crate) struct ServerProcess {
    child: Child,
    address: SocketAddr,
    key: String,
    client: Client,
    /// To be removed again.
    endpoints: Vec<Uuid>,
}

impl ServerProcess {
    /// Starts this same program as a server on a free port, with its logs in `folder`, and waits until it serves.
    pub(crate) async fn start(database: &Database, folder: &Path) -> Result<Self, Failure> {
        let key = AdminKey::generate(&Sources::system()).reveal().to_owned();
        let database = match database {
            Database::Temporary => format!("sqlite:{}", temporary_file(folder).display()),
            Database::Sqlite { setting, .. } => setting.clone(),
            Database::Postgres { url, .. } => url.clone(),
        };
        let (shown, log) = (folder.join("server.out"), folder.join("server.log"));
        let spawn = || -> io::Result<Child> {
            let mut command = Command::new(std::env::current_exe()?);
            // What is measured is this server and no other, whatever else is meant for one here.
            for name in settings::not_inherited() {
                command.env_remove(name);
            }
            command
                .args(["serve", "--listen", "127.0.0.1:0", "--profile", "development"])
                // By the environment: the command line of a process is for all to read.
                .env("NEO_EVENTS_DATABASE_URL", database)
                .env("NEO_EVENTS_ADMIN_KEY", &key)
                .env("RUST_LOG", "warn")
                .stdin(Stdio::null())
                .stdout(File::create(&shown)?)
                .stderr(File::create(&log)?)
                // Ctrl-C is for the bench, which then stops the server after it has tidied up.
                .process_group(0)
                .spawn()
        };
        let child = spawn().map_err(|error| failed(format!("the server does not start: {error}")))?;
        let mut starting = Starting(Some(child));
        let address = starting.address(&shown, &log).await?;
        let client = client(address, key.clone())?;
        let child = starting.0.take().ok_or_else(|| failed("the server is gone".to_owned()))?;
        Ok(Self { child, address, key, client, endpoints: Vec::new() })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its callers must show.
    pub(crate) fn authorization(&self) -> Result<HeaderValue, Failure> {
        HeaderValue::try_from(format!("Bearer {}", self.key)).map_err(|error| failed(error.to_string()))
    }

    /// Registers an endpoint for each URL, and subscribes it to the bench's events.
    pub(crate) async fn subscribe(&mut self, urls: &[String], secret: &SigningSecret) -> Result<(), Failure> {
        for (index, url) in urls.iter().enumerate() {
            let endpoint = wire::EndpointIn {
                name: endpoint_name(index),
                endpoint_url: url.clone(),
                secret_token: Some(secret.reveal_token().to_owned()),
                ..wire::EndpointIn::default()
            };
            let created = self.client.call(Call::post(["endpoints"]).json(to_json(&endpoint)?)).await?;
            let created: wire::Endpoint =
                serde_json::from_slice(&created).map_err(|error| failed(error.to_string()))?;
            self.endpoints.push(created.id);
            let subscription = wire::SubscriptionIn {
                endpoint_id: created.id,
                event_type: EVENT_TYPE.to_owned(),
                ..wire::SubscriptionIn::default()
            };
            self.client.call(Call::post(["subscriptions"]).json(to_json(&subscription)?)).await?;
        }
        Ok(())
    }

    /// Removes the endpoints and ends the server.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let removed = self.remove_endpoints().await;
        // It may be gone already; then there is nobody to tell.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(removed?)
    }

    async fn remove_endpoints(&mut self) -> Result<(), CallError> {
        for id in std::mem::take(&mut self.endpoints) {
            self.client.call(Call::new(Method::DELETE, ["endpoints", &id.to_string()])).await?;
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A server that is not ready yet; killed when dropped.
struct Starting(Option<Child>);

impl Starting {
    async fn address(&mut self, shown: &Path, log: &Path) -> Result<SocketAddr, Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(address) = address_in(&fs::read_to_string(shown).unwrap_or_default()) {
                return Ok(address);
            }
            let ended = self.0.as_mut().map(Child::try_wait);
            if !matches!(ended, Some(Ok(None))) {
                return Err(failed(format!("the server did not start:{}", last_lines(log))));
            }
            if Instant::now() > deadline {
                let seconds = START_TIMEOUT.as_secs();
                return Err(failed(format!("the server is not ready after {seconds} s:{}", last_lines(log))));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// In the notice of a server's start; a line that is still being written does not count.
fn address_in(shown: &str) -> Option<SocketAddr> {
    let (_, rest) = shown.split_once("http://")?;
    let (line, _) = rest.split_once('\n')?;
    line.split_whitespace().next()?.parse().ok()
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    format!("\n  {}", lines[from..].join("\n  "))
}

fn client(address: SocketAddr, key: String) -> Result<Client, Failure> {
    let url = Url::parse(&format!("http://{address}")).map_err(|error| failed(error.to_string()))?;
    Ok(Client::new(ClientOptions { url, key: Some(key), tenant: None, ca_file: None })?)
}

/// Where a temporary database is.
pub(crate) fn temporary_file(folder: &Path) -> PathBuf {
    folder.join("bench.db")
}

/// The name of the bench's endpoint with this number.
pub(super) fn endpoint_name(index: usize) -> String {
    format!("neo-events bench {index}")
}

pub(super) fn failed(message: String) -> Failure {
    Failure::Serve { message, advice: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_notice_once_its_line_is_whole() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        assert_eq!(address_in("serving    http://127.0.0.1:4711\nprofile"), Some(address));
        assert_eq!(address_in("serving    http://127.0.0.1:47"), None);
        assert_eq!(address_in(""), None);
    }
}
