//! The program run as by hand: in a folder of its own, without the environment's settings, its output kept in files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Where a test's programs run.
pub(crate) struct Folder(tempfile::TempDir);

/// A program that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A program that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A server on the folder's own data.
pub(crate) struct Server(Running);

/// Asks until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Where a server can listen again: a port that the system gives to nobody who does not ask for it.
pub(crate) fn lasting_address() -> String {
    // Each program of tests begins elsewhere.
    let begin = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let mut addresses = (begin..32_768).map(|port| format!("127.0.0.1:{port}"));
    addresses.find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap()
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        self.run_with_input(arguments, "")
    }

    /// The same, with standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        finish(self.command(arguments), input)
    }

    /// The same, with settings in the environment.
    pub(crate) fn run_with_environment(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        finish(command, "")
    }

    /// Runs the program to its end with its output into this; answers its exit code.
    pub(crate) fn run_into(&self, arguments: &[&str], stdout: impl Into<Stdio>) -> Option<i32> {
        let mut command = self.command(arguments);
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).spawn().unwrap();
        let unread = self.path("unread");
        Running { child, stdout: unread.clone(), stderr: unread }.wait()
    }

    /// Runs a command that must succeed, and answers what it printed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let finished = self.run(arguments);
        assert_eq!(finished.code, 0, "{arguments:?}: {finished:?}");
        finished.stdout
    }

    /// Runs a command with `--json` that must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let finished = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(finished.code, 0, "{arguments:?}: {finished:?}");
        finished.json()
    }

    /// Starts a program that goes on.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let name = format!("{}-{}", arguments[0], fs::read_dir(self.0.path()).unwrap().count());
        let (stdout, stderr) = (self.path(&format!("{name}.out")), self.path(&format!("{name}.err")));
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        Running { child: command.spawn().unwrap(), stdout, stderr }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // Whoever runs the tests may have chosen not to hear of their terminal's end.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_neo-events")]);
        for (name, _) in std::env::vars_os() {
            if ["NEO_EVENTS_", "WEBHOOK_"].iter().any(|ours| name.to_string_lossy().starts_with(ours)) {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(self.0.path()).env_remove("RUST_LOG");
        command
    }
}

fn finish(mut command: Command, input: &str) -> Finished {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = thread::spawn(move || {
        // A program that does not read its input may close it.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Finished {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Running {
    /// What it printed so far.
    pub(crate) fn shown(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    /// Waits for a text on standard output.
    pub(crate) fn until_shown(&mut self, text: &str) {
        until(text, || {
            let is_over = self.child.try_wait().unwrap().is_some();
            let shown = self.shown();
            let is_shown = shown.contains(text);
            assert!(is_shown || !is_over, "it ended without {text}: {shown}{}", self.logged());
            is_shown.then_some(())
        });
    }

    /// The first URL that it printed.
    pub(crate) fn url(&self) -> String {
        let shown = self.shown();
        let from = shown.find("http://").unwrap();
        shown[from..].split_whitespace().next().unwrap().to_owned()
    }

    /// Waits for its end by itself.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        until("the end", || self.child.try_wait().unwrap()).code()
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> Option<()> {
        self.child.try_wait().unwrap().map(drop)
    }

    /// SIGTERM.
    pub(crate) fn signal(&self) {
        self.signal_with("-TERM");
    }

    /// A signal as `kill` names it.
    pub(crate) fn signal_with(&self, name: &str) {
        let signalled = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(signalled.success());
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal();
        self.wait()
    }

    /// What it logged so far.
    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it with nothing given but a free port, and waits for its credentials.
    pub(crate) fn start(folder: &Folder) -> Self {
        let mut running = folder.start(&["serve", "--listen", "127.0.0.1:0"]);
        running.until_shown("admin key");
        let credentials: &Path = &folder.path("neo-events-data/credentials.json");
        assert!(credentials.exists());
        Self(running)
    }

    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    pub(crate) fn shown(&self) -> String {
        self.0.shown()
    }

    pub(crate) fn logged(&self) -> String {
        self.0.logged()
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(self) -> Option<i32> {
        self.0.terminate()
    }
}
