//! The systems that are compared, each set up as its own documentation does for production, with what lets it run on one
//! machine: loopback addresses allowed, limits of rates lifted.

mod convoy;
mod ours;
mod outpost;
mod svix;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    ground::{Ground, Program},
    load::{Publish, data},
};

const PATIENCE: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const EVENT_TYPE: &str = "bench.load";
/// Whatever limits of rates there are.
const UNLIMITED: u32 = 100_000_000;

/// What is to be measured.
#[derive(Clone)]
pub(crate) enum Candidate {
    NeoEvents,
    /// Its queue is in Redis, or (and then it is lost when the server is killed) in its memory.
    Svix {
        program: PathBuf,
        is_volatile: bool,
    },
    /// Its queue is in Redis, or in `PostgreSQL`.
    Convoy {
        program: PathBuf,
        is_on_postgres: bool,
    },
    /// Its queue is in `RabbitMQ`, what is to be known of it in Redis, its log in `PostgreSQL`.
    Outpost {
        program: PathBuf,
    },
}

impl Candidate {
    /// Of an argument `NAME=PATH`.
    pub(crate) fn parse(argument: &str) -> Option<Self> {
        let (name, program) = argument.split_once('=')?;
        let program = PathBuf::from(program);
        Some(match name {
            "svix" | "svix-volatile" => Self::Svix { program, is_volatile: name != "svix" },
            "convoy" | "convoy-on-postgres" => Self::Convoy { program, is_on_postgres: name != "convoy" },
            "outpost" => Self::Outpost { program },
            _ => return None,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::NeoEvents => "neo-events",
            Self::Svix { is_volatile: false, .. } => "Svix",
            Self::Svix { is_volatile: true, .. } => "Svix, queue in memory",
            Self::Convoy { is_on_postgres: false, .. } => "Convoy",
            Self::Convoy { is_on_postgres: true, .. } => "Convoy, queue in PostgreSQL",
            Self::Outpost { .. } => "Outpost",
        }
    }

    /// Starts it, with an endpoint for each of these URLs, which gets every event.
    pub(crate) async fn start(&self, ground: &mut Ground, urls: &[String]) -> System {
        match self {
            Self::NeoEvents => ours::start(ground, urls).await,
            Self::Svix { program, is_volatile } => svix::start(program, *is_volatile, ground, urls).await,
            Self::Convoy { program, is_on_postgres } => {
                convoy::start(program, *is_on_postgres, ground, urls).await
            }
            Self::Outpost { program } => outpost::start(program, ground, urls).await,
        }
    }
}

/// A system that runs.
pub(crate) struct System {
    pub(crate) api: SocketAddr,
    /// How an event is published.
    pub(crate) publish: Publish,
    programs: Vec<Program>,
    /// Where its programs say that they are ready.
    ready: Vec<String>,
}

impl System {
    /// Starts the programs and waits until all of them are ready.
    pub(crate) async fn start(&mut self) {
        self.programs.iter_mut().for_each(Program::start);
        let deadline = Instant::now() + PATIENCE;
        for url in &self.ready {
            while !reqwest::get(url).await.is_ok_and(|response| response.status().is_success()) {
                assert!(Instant::now() < deadline, "{url}: {}", self.log());
                sleep(POLL_INTERVAL).await;
            }
        }
    }

    /// SIGKILL to all of its programs; what it stands on goes on.
    pub(crate) fn kill(&mut self) {
        self.programs.iter_mut().for_each(Program::kill);
    }

    /// The most that its programs had resident, in MiB.
    pub(crate) fn resident_peak_mib(&self) -> u64 {
        self.programs.iter().map(Program::resident_peak_kib).sum::<u64>() / 1024
    }

    /// What its programs said.
    pub(crate) fn log(&self) -> String {
        self.programs.iter().map(Program::log).collect()
    }

    async fn started(api: SocketAddr, programs: Vec<Program>, ready: Vec<String>) -> Self {
        let publish: Publish = Arc::new(|_| unreachable!("it is not subscribed to yet"));
        let mut system = Self { api, publish, programs, ready };
        system.start().await;
        system
    }

    fn publishing(
        self,
        path: String,
        authorization: String,
        body: impl Fn(String) -> String + Send + Sync + 'static,
    ) -> Self {
        let publish = move |number| {
            Request::post(&path)
                .header("authorization", &authorization)
                .header("content-type", "application/json")
                .body(body(data(number)).into())
                .unwrap()
        };
        Self { publish: Arc::new(publish), ..self }
    }
}

/// The API of a system.
struct Api {
    address: SocketAddr,
    authorization: String,
}

impl Api {
    async fn post(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let answer = reqwest::Client::new()
            .request(method, format!("http://{}{path}", self.address))
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
