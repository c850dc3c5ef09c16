//! A machine that has no more files to open. The limit is a process's, so these tests run in one of their own.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use neo_events_egress::{Egress, FailureKind, Request};

use crate::support::{OK, Receiver, config, egress, post, target};

const FILES_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs an ignored test of this module where so many files may be open.
fn run_short_of_files(test: &str) {
    let script = format!("ulimit -n {FILES_MAX} && exec \"$0\" --exact shortage::{test} --ignored");
    let this = std::env::current_exe().expect("a running test");
    let output = Command::new("sh").arg("-c").arg(script).arg(this).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn open_all() -> Vec<File> {
    let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).take(FILES_MAX).collect();
    assert!(files.len() < FILES_MAX, "there is no limit");
    files
}

fn request(receiver: &Receiver) -> Request {
    Request { total_timeout: 3 * CONNECT_TIMEOUT, ..post(&receiver.target("/")) }
}

#[test]
fn a_shortage_that_passes_is_waited_out() {
    run_short_of_files("waits");
}

#[tokio::test]
#[ignore = "needs a process that may open few files"]
async fn waits() {
    let receiver = Receiver::answering(OK).await;
    let egress = egress();
    let files = open_all();
    let release = async {
        tokio::time::sleep(CONNECT_TIMEOUT / 3).await;
        drop(files);
    };
    let (response, ()) = tokio::join!(egress.send(request(&receiver)), release);
    response.unwrap();
}

#[test]
fn a_shortage_that_lasts_is_told_by_its_name() {
    run_short_of_files("tells");
}

#[tokio::test]
#[ignore = "needs a process that may open few files"]
async fn tells() {
    let receiver = Receiver::answering(OK).await;
    let egress = egress();
    let files = open_all();
    let failure = egress.send(request(&receiver)).await.unwrap_err();
    drop(files);
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert_eq!(failure.detail, "this machine has reached its limit on open files or ports");
    assert!(failure.elapsed < 2 * CONNECT_TIMEOUT);
    egress.send(request(&receiver)).await.unwrap();
}

#[test]
fn a_shortage_that_keeps_names_from_being_resolved_is_told_by_its_name() {
    run_short_of_files("tells_of_names");
}

#[tokio::test]
#[ignore = "needs a process that may open few files"]
async fn tells_of_names() {
    let egress = Egress::new(config()).unwrap();
    let files = open_all();
    let request = Request { total_timeout: 3 * CONNECT_TIMEOUT, ..post(&target("http://hooks.example/")) };
    let failure = egress.send(request).await.unwrap_err();
    drop(files);
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
    assert_eq!(failure.detail, "this machine has reached its limit on open files or ports");
}
