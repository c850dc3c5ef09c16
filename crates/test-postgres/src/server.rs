//! Making a cluster's data folder and running a server on it.

use std::{
    fs::{self, DirBuilder, File},
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    connection::{self, Connection, SUPERUSER},
    home::{Home, random},
    installation::Installation,
};

/// How long a start may take, recovery on a loaded machine included.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Below the range from which systems take ports for outgoing connections and for those who ask for any: a stopped
/// server's port is still free when it starts again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What every cluster gets before its own settings.
const SETTINGS: [(&str, &str); 8] = [
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "500"),
    ("shared_buffers", "64MB"),
    // Files in the data folder, which go with it, also where the server is killed.
    ("dynamic_shared_memory_type", "mmap"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    // The start is judged by what the log says.
    ("lc_messages", "C"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
];

/// The size of the disk of a cluster that has one, and of a file that takes most of it.
const DISK_MIB: u32 = 64;
const BALLAST_MIB: u32 = 48;

/// Somebody else listens on the port.
#[derive(Debug)]
pub(crate) struct PortTaken;

/// Makes the data folder of a new cluster. Blocks.
pub(crate) fn initialize(home: &Home, settings: &[(&str, &str)]) {
    let data = home.data();
    DirBuilder::new().mode(0o700).create(&data).unwrap();
    home.account.give(&data);
    let output = program(home, "initdb")
        .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"])
        .args(["--username", SUPERUSER])
        .arg("--pgdata")
        .arg(&data)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    configure(home, &[&SETTINGS, settings].concat());
}

/// Makes the data folder of a standby of the server at a port. Blocks.
pub(crate) fn copy(home: &Home, primary: u16) {
    let data = home.data();
    DirBuilder::new().mode(0o700).create(&data).unwrap();
    home.account.give(&data);
    let output = program(home, "pg_basebackup")
        .args(["--host=127.0.0.1", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"])
        .args(["--no-sync", "--username", SUPERUSER, "--port", &primary.to_string(), "--pgdata"])
        .arg(&data)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
    configure(home, &[]);
}

fn configure(home: &Home, settings: &[(&str, &str)]) {
    let mut file = File::options().append(true).open(home.data().join("postgresql.conf")).unwrap();
    let socket_folder = home.path().to_str().expect("a directory for temporary files with a name in UTF-8");
    for (name, value) in [("unix_socket_directories", socket_folder)].iter().chain(settings) {
        // The last line of a name counts.
        writeln!(file, "{name} = '{}'", value.replace('\'', "''")).unwrap();
    }
}

/// Starts the server on a port that is free, and waits until it serves.
pub(crate) async fn start_on_any_port(home: &Home) -> (Child, u16) {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        assert!(Instant::now() < deadline, "no port is free");
        let port = PORTS.start + u16::try_from(random() % PORTS.len() as u64).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && let Ok(server) = start(home, port).await
        {
            return (server, port);
        }
    }
}

/// Starts the server, and waits until it serves.
pub(crate) async fn start(home: &Home, port: u16) -> Result<Child, PortTaken> {
    let log = File::options().create(true).append(true).open(home.log()).unwrap();
    let said_before = usize::try_from(log.metadata().unwrap().len()).unwrap();
    let mut server = if home.disk().exists() { on_small_disk(home) } else { program(home, "postgres") }
        .arg("-D")
        .arg(home.data())
        .args(["-p", &port.to_string()])
        // An interrupt from the keyboard would shut it down under the tests' feet.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let url = connection::url(port, SUPERUSER, "postgres");
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = server.try_wait().unwrap() {
            let said = fs::read(home.log()).unwrap();
            let said = String::from_utf8_lossy(&said[said_before..]).into_owned();
            if said.contains("could not create any TCP/IP sockets") {
                return Err(PortTaken);
            }
            panic!("the server ended with {status}: {said}");
        }
        if Connection::open(&url).await.is_ok() {
            return Ok(server);
        }
        assert!(Instant::now() < deadline, "the server does not start; its log: {}", home.log().display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One of PostgreSQL's programs, run as the home's account; nothing in our environment changes what it does.
fn program(home: &Home, name: &str) -> Command {
    let mut command = Command::new(Installation::find().program(name));
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(home.data());
    home.account.run(&mut command);
    command
}

/// The server with a disk of its own mounted beside its data, for it alone: it goes with the last of its processes. The
/// server cannot be root, and mounting takes root, be it one of a namespace.
fn on_small_disk(home: &Home) -> Command {
    let (uid, gid) = home.account.ids();
    let (mount, own, become_account) = if rustix::process::geteuid().is_root() {
        let own = format!("chown {uid} \"$0/space\" &&");
        (vec!["--mount"], own, format!("setpriv --reuid={uid} --regid={gid} --clear-groups --"))
    } else {
        let become_account = format!("unshare --user --map-user={uid} --map-group={gid} --");
        (vec!["--map-root-user", "--mount"], String::new(), become_account)
    };
    let script = format!(
        "mount -t tmpfs -o size={DISK_MIB}m,mode=755 tmpfs \"$0\" && mkdir -m 700 \"$0/space\" && {own} \
         head -c {BALLAST_MIB}M /dev/zero >\"$0/ballast\" && exec {become_account} \"$@\""
    );
    let mut command = Command::new("unshare");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(home.data());
    command.args(mount).args(["sh", "-c", &script]).arg(home.disk());
    command.arg(Installation::find().program("postgres"));
    command
}
