//! `neo-events demo`: everything at work on an empty machine, in a temporary folder that is gone afterwards.
//!
//! A server and a receiver run in this process. What is shown goes through the public HTTP API and real webhooks, and
//! is compared with what should have happened, so the demo is a test too: `--exit` ends with 0 only if all of it did.

mod script;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use clap::Args;
use neo_events::{Profile, Sources};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        failure::{Failure, with_causes},
        output::Output,
        session::Session,
        signals::Signals,
    },
    client::{Client, ClientOptions},
    serve::{ServeError, serve},
    settings::{AdminKey, Database, Roles, ServeSettings},
    webhook_receiver::Receiver,
};

pub(crate) const EXAMPLES: &str = "\
It starts a server and a receiver on loopback, registers two endpoints (one
answers 503 at first), subscribes them (one with a filter), publishes a few
events and shows what becomes of each. Then it stays, so that you can try by
hand.

Examples:
  neo-events demo
  neo-events demo --exit && echo works";

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End once everything was shown: with status 0 if it went as it should, else 1
    #[arg(long)]
    exit: bool,
    /// Where the server listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Runs the command.
pub(crate) async fn run(args: DemoArgs, output: &Output) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut signals = Signals::new();
    let folder = tempfile::Builder::new().prefix("neo-events-demo-").tempdir();
    let folder = folder.map_err(|error| Failure::Serve {
        message: format!("cannot make a temporary folder: {error}"),
        advice: Some("Name another place for it with TMPDIR.".to_owned()),
    })?;
    let admin_key = AdminKey::generate(&Sources::system());
    let key = admin_key.reveal().to_owned();
    let settings = ServeSettings {
        listen: args.listen,
        database: Database::Sqlite(folder.path().join("admin.db")),
        profile: Profile::Development,
        roles: Roles::ALL,
        admin_key,
        master_keys: Vec::new(),
        ca_file: None,
        migrates: true,
    };
    let (ready, is_ready) = oneshot::channel();
    let stop = CancellationToken::new();
    let is_up = |address| {
        // Whoever waits for it may have been interrupted.
        let _ = ready.send(address);
    };
    let serving = serve(settings, is_up, stop.clone().cancelled_owned());
    let showing = async {
        // Whatever way the show ends, the server is to end after it.
        let _stop = stop.drop_guard();
        let Ok(address) = is_ready.await else { return Ok(()) }; // the server says why it did not start
        tokio::select! {
            shown = show(address, key, output, &args, begun) => shown,
            () = signals.next() => if args.exit { Err(interrupted()) } else { Ok(()) },
        }
    };
    let (served, shown) = tokio::join!(serving, showing);
    served.map_err(|error| explain(&error))?;
    shown
}

async fn show(
    address: SocketAddr,
    key: String,
    output: &Output,
    args: &DemoArgs,
    begun: Instant,
) -> Result<(), Failure> {
    let url = format!("http://{address}");
    let server_url = url.parse().map_err(|error| Failure::Usage(format!("{url} is no URL: {error}")))?;
    let client =
        Client::new(ClientOptions { url: server_url, key: Some(key.clone()), tenant: None, ca_file: None })?;
    let session = Session { client, output: output.clone(), is_json: false };
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let (receiver, webhooks) = Receiver::start(loopback, Arc::new(script::answers())).await?;
    let receiver_url = format!("http://{}", receiver.address());

    let mut stage = script::Stage::new(&session, receiver_url.clone(), webhooks, begun);
    stage.introduce(&url)?;
    let missing = stage.play().await?;
    let ended = match (missing.is_empty(), args.exit) {
        (true, true) => Ok(()),
        (false, true) => Err(Failure::Reported),
        (_, false) => stage.stay(&url, &key).await,
    };
    receiver.stop().await;
    ended
}

fn interrupted() -> Failure {
    Failure::Serve { message: "interrupted before everything was shown".to_owned(), advice: None }
}

fn explain(error: &ServeError) -> Failure {
    let is_taken =
        matches!(error, ServeError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    let advice =
        is_taken.then(|| "Another program listens there; without --listen a free port is taken.".to_owned());
    Failure::Serve { message: with_causes(error), advice }
}
