//! An empty database for those who are not Rust tests: a person with `psql`, a script. It prints the superuser's URL and
//! keeps the database until its standard input ends.
//!
//! ```text
//! throwaway-postgres [FOLDER IDLE_SECONDS]
//! ```
//!
//! In the cluster of the workspace; or in the one in `FOLDER`, which ends after being idle for so long.

#![expect(clippy::unwrap_used, reason = "it is for tests, which fail by panicking")]

use std::{env, io, path::Path, time::Duration};

use neo_events_test_postgres::SharedCluster;

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let cluster = match &*arguments {
        [] => SharedCluster::of_this_workspace(),
        [folder, idle] => SharedCluster::at(Path::new(folder), Duration::from_secs(idle.parse().unwrap())),
        _ => panic!("usage: throwaway-postgres [FOLDER IDLE_SECONDS]"),
    };
    let database = cluster.database().await;
    println!("{}", database.url());
    io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
}
