//! What a command works with: the server to call and the output to write, in both forms, for people and programs.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use neo_events::SigningSecret;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use url::{Host, Url};

use crate::{
    cli::{
        failure::{Failure, with_causes},
        output::{Output, Row, Shape, printable},
        signals::Signals,
    },
    client::{Call, CallError, Client, ClientOptions, KeySource, URL_DEFAULT},
    credentials::{self, Credentials},
    settings::{self, ClientFlags, ClientSettings},
    wire::{self, BatchAnswer, List, Pairs},
};

/// Where the server is and who asks.
#[derive(Clone, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    #[arg(long, global = true, value_name = "URL", help = URL_HELP)]
    url: Option<String>,
    #[arg(long, global = true, value_name = "KEY", help = KEY_HELP)]
    key: Option<String>,
    #[arg(long, global = true, value_name = "SLUG", help = TENANT_HELP)]
    tenant: Option<String>,
    #[arg(long, global = true, value_name = "FILE", help = CREDENTIALS_HELP)]
    credentials: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = CA_FILE_HELP)]
    ca_file: Option<PathBuf>,
    /// Whether what is asked for is the platform's and no tenant's.
    #[arg(skip)]
    is_of_platform: bool,
}

const URL_HELP: &str =
    "Where the server is; else from the credentials file, else http://127.0.0.1:8080 [env: NEO_EVENTS_URL]";
const KEY_HELP: &str =
    "API key; else from the credentials file, if that is for the same URL [env: NEO_EVENTS_KEY]";
const TENANT_HELP: &str =
    "Tenant to act in, with an admin key: a slug, or region:REGION [default: admin] [env: NEO_EVENTS_TENANT]";
const CREDENTIALS_HELP: &str =
    "File in which `serve` left its URL and key [default: neo-events-data/credentials.json]";
const CA_FILE_HELP: &str = "Further TLS roots for https, in PEM [env: NEO_EVENTS_CA_FILE]";

impl ServerArgs {
    /// The first flag that was given.
    pub(crate) fn flag(&self) -> Option<&'static str> {
        let texts = [("--url", &self.url), ("--key", &self.key), ("--tenant", &self.tenant)];
        let files = [("--credentials", &self.credentials), ("--ca-file", &self.ca_file)];
        let text = texts.into_iter().find_map(|(flag, value)| value.as_ref().map(|_| flag));
        text.or_else(|| files.into_iter().find_map(|(flag, value)| value.as_ref().map(|_| flag)))
    }

    fn flags(&self) -> ClientFlags {
        ClientFlags {
            url: self.url.clone(),
            key: self.key.clone(),
            has_tenant: self.tenant.is_some(),
            has_ca_file: self.ca_file.is_some(),
        }
    }

    /// What a server left in the file. One that was named must be usable: with another server's in its place, commands
    /// would go where nobody meant them to.
    fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        let Some(named) = &self.credentials else { return Ok(Credentials::read(self.credentials_path())?) };
        match Credentials::read(named) {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) => Err(Failure::Usage(format!("the credentials file {} is not there", named.display()))),
            Err(unusable) => Err(Failure::Usage(with_causes(&unusable))),
        }
    }

    /// For calls that are about the platform: they act in no tenant, also where the environment names one.
    pub(crate) fn of_platform(self) -> Self {
        Self { is_of_platform: true, ..self }
    }

    fn credentials_path(&self) -> &Path {
        self.credentials.as_deref().unwrap_or(Path::new(credentials::PATH_DEFAULT))
    }

    /// Further TLS roots.
    pub(crate) fn ca_file(&self) -> Option<String> {
        self.ca_file.as_ref().map(|path| path.display().to_string())
    }
}

/// Which part of a list.
#[derive(Debug, Clone, Args)]
pub(crate) struct Paging {
    /// Most rows of one answer, up to 1000 [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Go on where an earlier answer ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Follow the list to its end
    #[arg(long)]
    all: bool,
}

/// Rows of one answer with `--all`: fewer calls than by default.
const ALL_LIMIT: u32 = 500;

/// A server, an output, and the form that is wanted.
pub(crate) struct Session {
    /// The server.
    pub(crate) client: Client,
    /// The output.
    pub(crate) output: Output,
    /// Whether programs read it.
    pub(crate) is_json: bool,
}

impl Session {
    /// Finds the server.
    pub(crate) fn open(server: ServerArgs, output: Output, is_json: bool) -> Result<Self, Failure> {
        let given = settings::resolve_client(server.flags())?;
        let is_known = given.url.is_some() && given.key.is_some();
        let left = if is_known && server.credentials.is_none() { None } else { server.credentials()? };
        let file = (server.credentials_path(), server.credentials.is_some());
        let Found { url, key, key_source } = find_server(given, file, left)?;
        let ca_file = match server.ca_file {
            // The environment's is for whoever needs it: a server that speaks http does not.
            None if url.scheme() == "https" => settings::variable("NEO_EVENTS_CA_FILE")?.map(PathBuf::from),
            named => named,
        };
        let tenant = match server.tenant {
            None if !server.is_of_platform => settings::variable("NEO_EVENTS_TENANT")?,
            named => named,
        };
        let client = Client::new(ClientOptions { url, key, tenant, ca_file })?.with_key_from(key_source);
        Ok(Self { client, output, is_json })
    }

    /// Whether somebody said where a server is or what its key is, or one left word in the folder.
    pub(crate) fn is_server_known(server: &ServerArgs) -> Result<bool, Failure> {
        let given = settings::resolve_client(server.flags())?;
        Ok(server.credentials()?.is_some() || given.url.is_some() || given.key.is_some())
    }

    /// Makes a call. For programs its answer is written as it came; for people it is returned, to be shown.
    pub(crate) async fn answer<T: DeserializeOwned>(&self, call: Call) -> Result<Option<T>, Failure> {
        let answer = self.client.call(call).await?;
        if self.is_json {
            if !answer.is_empty() {
                self.output.raw_line(&answer)?;
            }
            return Ok(None);
        }
        self.read(&answer).map(Some)
    }

    /// Makes a call whose answer is both shown and judged: as it came, and read.
    pub(crate) async fn answer_both<T: DeserializeOwned>(&self, call: Call) -> Result<(Bytes, T), Failure> {
        let answer = self.client.call(call).await?;
        let read = self.read(&answer)?;
        Ok((answer, read))
    }

    /// Makes a call whose answer is read by the command itself.
    pub(crate) async fn read_answer<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let answer = self.client.call(call).await?;
        self.read(&answer)
    }

    /// Publishes a batch. Where all of it is rejected, the refusal tells of each event too.
    pub(crate) async fn publish_batch(&self, call: Call) -> Result<BatchAnswer, Failure> {
        let (status, answer) = self.client.send(call).await?;
        if status.is_success() {
            return self.read(&answer);
        }
        serde_json::from_slice(&answer).map_err(|_| self.client.refusal(status, answer).into())
    }

    /// Makes a call and shows each field of its answer.
    pub(crate) async fn show(&self, call: Call) -> Result<(), Failure> {
        if let Some(fields) = self.answer::<Pairs<Box<RawValue>>>(call).await? {
            self.output.record(&fields)?;
        }
        Ok(())
    }

    /// Makes a call without an answer and says what is done.
    pub(crate) async fn confirm(&self, call: Call, done: &str) -> Result<(), Failure> {
        self.client.call(call).await?;
        // What programs read is JSON, also where there is nothing to say.
        Ok(self.output.line(if self.is_json { "{}" } else { done })?)
    }

    /// Shows a list, or the part of it that is asked for.
    pub(crate) async fn list<T: Row + DeserializeOwned>(
        &self,
        call: Call,
        paging: &Paging,
    ) -> Result<(), Failure> {
        match (paging.all, self.is_json) {
            (true, true) => self.list_all_json(call, paging).await,
            (all, _) => self.list_pages::<T>(call, paging, all).await,
        }
    }

    async fn list_pages<T: Row + DeserializeOwned>(
        &self,
        call: Call,
        paging: &Paging,
        all: bool,
    ) -> Result<(), Failure> {
        let mut cursor = paging.cursor.clone();
        let mut is_first = true;
        let mut shape = Shape::default();
        loop {
            let limit = paging.limit.or(all.then_some(ALL_LIMIT));
            let page = call.clone().query("limit", limit).query("cursor", cursor.take());
            let Some(page) = self.answer::<List<T>>(page).await? else { return Ok(()) };
            match page.data.as_slice() {
                [] if is_first => self.output.line(format_args!("No {}.", T::NAME))?,
                [] => {}
                rows => self.output.table(rows, &mut shape)?,
            }
            match page.next_cursor {
                Some(next) if all => cursor = Some(next),
                Some(next) => {
                    let more = format!("More: --cursor {}, or --all for the whole list.", printable(&next));
                    return Ok(self.output.line(self.output.style.dim(more))?);
                }
                None => return Ok(()),
            }
            is_first = false;
        }
    }

    /// The whole list in the shape of one answer, written as it comes. Where it is cut off, it says how to go on.
    async fn list_all_json(&self, call: Call, paging: &Paging) -> Result<(), Failure> {
        let mut cursor = paging.cursor.clone();
        let mut before = "{\"data\":[";
        let mut signals = Signals::new();
        loop {
            let limit = paging.limit.unwrap_or(ALL_LIMIT);
            let page = call.clone().query("limit", Some(limit)).query("cursor", cursor.as_ref());
            let page = tokio::select! {
                page = self.read_answer::<List<Box<RawValue>>>(page) => page,
                () = signals.next() => {
                    Err(Failure::Serve { message: "interrupted before the end of the list".to_owned(), advice: None })
                }
            };
            let page = match page {
                Err(failure) if before == "," => {
                    self.output.line(format_args!("],\"next_cursor\":{}}}", to_json(&cursor)?))?;
                    return Err(Failure::CutOff(Box::new(failure)));
                }
                page => page?,
            };
            for item in &page.data {
                self.output.line(format_args!("{before}{item}"))?;
                before = ",";
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                let start = if before == "," { "" } else { before };
                return Ok(self.output.line(format_args!("{start}],\"next_cursor\":null}}"))?);
            }
        }
    }

    /// The secret that an endpoint was created with, to check what it receives.
    pub(crate) fn secret_of(&self, created: &wire::Endpoint) -> Result<SigningSecret, Failure> {
        let secret = SigningSecret::try_new(created.secret_token.as_deref().unwrap_or_default(), 1);
        secret.map_err(|rule| {
            let reason = format!("the secret of a new endpoint {rule}");
            CallError::Strange { origin: self.client.origin(), reason }.into()
        })
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, Failure> {
        let answer = if answer.is_empty() { b"null" } else { answer };
        serde_json::from_slice(answer).map_err(|error| {
            let reason = format!("its answer cannot be read ({error})");
            CallError::Strange { origin: self.client.origin(), reason }.into()
        })
    }
}

/// JSON text of an input.
pub(crate) fn to_json(input: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(input).map_err(|error| Failure::Usage(error.to_string()))
}

/// JSON text of changes, of which there must be some.
pub(crate) fn changes_to_json(changes: &impl Serialize) -> Result<String, Failure> {
    let changes = to_json(changes)?;
    if changes == "{}" {
        return Err(Failure::Usage("nothing to change: name at least one field (see --help)".to_owned()));
    }
    Ok(changes)
}

/// A server, and the key for it.
struct Found {
    url: Url,
    key: Option<String>,
    key_source: KeySource,
}

/// The file's key is for the file's URL alone: it is sent nowhere else. And a key that was given goes to the URL of a file
/// that lies in the folder only if that is this machine's: whoever has made the folder may have made the file.
fn find_server(
    given: ClientSettings,
    (path, is_named): (&Path, bool),
    left: Option<Credentials>,
) -> Result<Found, Failure> {
    let parse = |text: &str| {
        Url::parse(text).map_err(|error| Failure::Usage(format!("{text} is no URL of a server: {error}")))
    };
    let url = given.url.as_deref().map(parse).transpose()?;
    let left = left.map(|left| parse(&left.url).map(|url| (url, left.key))).transpose()?;
    let left_url = left.as_ref().map(|(url, _)| url.clone());
    if let (None, Some(there), Some(_), false) = (&url, &left_url, &given.key, is_named)
        && !is_this_machine(there)
    {
        let reason = format!(
            "{} names the server {there}, to which a key that was given is not sent unasked: say --url {there}, or \
             --credentials {}",
            path.display(),
            path.display()
        );
        return Err(Failure::Usage(reason));
    }
    let url = url.or_else(|| left_url.clone()).map_or_else(|| parse(URL_DEFAULT), Ok)?;
    let (key, key_source) = match (given.key, given.key_setting, left) {
        (Some(key), setting, _) => (Some(key), KeySource::Given(setting.unwrap_or("--key"))),
        (None, _, Some((of, key))) if of.origin() == url.origin() => {
            (Some(key), KeySource::File(path.to_owned()))
        }
        (None, _, Some((of, _))) => {
            (None, KeySource::FileOfAnother { path: path.to_owned(), url: of.to_string() })
        }
        (None, _, None) => (None, KeySource::NoFile(path.to_owned())),
    };
    Ok(Found { url, key, key_source })
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_given_goes_to_no_url_that_lies_about() {
        let find = |url: &str, is_named: bool| {
            let given =
                ClientSettings { url: None, key: Some("mine".into()), key_setting: Some("NEO_EVENTS_KEY") };
            let left = Credentials { url: url.into(), key: "left".into(), databases: Vec::new() };
            find_server(given, (Path::new("credentials.json"), is_named), Some(left))
        };
        for url in ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080"] {
            assert!(find(url, false).is_ok(), "{url}");
        }
        for url in ["https://elsewhere.example", "http://localhost.example", "http://10.0.0.1:8080"] {
            let Err(refused) = find(url, false) else { panic!("{url}") };
            assert!(refused.to_string().contains("is not sent unasked"), "{refused}");
            assert_eq!(find(url, true).unwrap().key.as_deref(), Some("mine"), "a file that was named");
        }
    }

    #[test]
    fn the_key_of_the_file_goes_to_its_own_server_alone() {
        let path = Path::new("credentials.json");
        let check = |left: Option<(&str, &str)>,
                     (url, key): (Option<&str>, Option<&str>),
                     expected: (&str, Option<&str>),
                     says: &str| {
            let key_setting = key.map(|_| "NEO_EVENTS_KEY");
            let given =
                ClientSettings { url: url.map(str::to_owned), key: key.map(str::to_owned), key_setting };
            let left = left.map(|(url, key)| Credentials {
                url: url.to_owned(),
                key: key.to_owned(),
                databases: Vec::new(),
            });
            let found = find_server(given, (path, false), left).unwrap();
            assert_eq!((found.url.as_str(), found.key.as_deref()), expected);
            let source = found.key_source.to_string();
            assert!(source.contains(says), "{source}");
        };
        let elsewhere = "http://elsewhere.example/";
        check(None, (None, None), ("http://127.0.0.1:8080/", None), "there is no credentials.json");
        check(None, (Some(elsewhere), Some("mine")), (elsewhere, Some("mine")), "from NEO_EVENTS_KEY");
        let left = Some(("http://127.0.0.1:9", "left"));
        let of_file = ("http://127.0.0.1:9/", Some("left"));
        check(left, (None, None), of_file, "from credentials.json");
        check(left, (Some("http://127.0.0.1:9/"), None), of_file, "from credentials.json");
        check(left, (Some(elsewhere), None), (elsewhere, None), "is for http://127.0.0.1:9/");
        check(left, (None, Some("mine")), ("http://127.0.0.1:9/", Some("mine")), "from NEO_EVENTS_KEY");
        check(left, (Some(elsewhere), Some("mine")), (elsewhere, Some("mine")), "from NEO_EVENTS_KEY");
    }
}
