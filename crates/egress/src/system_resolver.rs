//! The resolver of the system's configuration, with its hosts file.
//!
//! A machine's name servers change while a process runs: it gets another address, joins a network, the network of its
//! containers is made anew. So it is looked now and then, before a name is asked for, whether the configuration was
//! written since. Not only when one does not resolve: a name server that is gone does not answer, and an attempt may be
//! over before that is a failure. A configuration that cannot be used changes nothing, and is looked at again.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::{DnsError, NetError};
use tokio::time::Instant;

use crate::resolve::{Lookup, Resolve, ResolveError, Resolved};

/// Where the system's configuration is.
const CONFIGURATION: &str = "/etc/resolv.conf";
/// The configuration is not looked at more often than this.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(3);
/// How long the system's resolver may remember that a name does not exist.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5);

/// A name server that does not answer should be found out before the connect timeout.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const QUERY_RETRIES: usize = 1;

pub(crate) struct SystemResolver {
    configuration: PathBuf,
    make: fn(&Path) -> Result<TokioResolver, NetError>,
    current: Mutex<Current>,
}

struct Current {
    resolver: Arc<TokioResolver>,
    written: Option<SystemTime>,
    looked_at: Instant,
}

impl SystemResolver {
    pub(crate) fn try_new() -> Result<Self, ResolveError> {
        Self::with(Path::new(CONFIGURATION), |_| system()).map_err(failed)
    }

    fn with(
        configuration: &Path,
        make: fn(&Path) -> Result<TokioResolver, NetError>,
    ) -> Result<Self, NetError> {
        // If it is written in between, it will have changed.
        let written = written(configuration);
        let resolver = Arc::new(make(configuration)?);
        let current = Mutex::new(Current { resolver, written, looked_at: Instant::now() });
        Ok(Self { configuration: configuration.to_owned(), make, current })
    }

    /// By the configuration as it is now, or was a moment ago.
    fn current(&self) -> Arc<TokioResolver> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked_at.elapsed() >= RENEWAL_INTERVAL {
            current.looked_at = Instant::now();
            self.renew(&mut current);
        }
        current.resolver.clone()
    }

    fn renew(&self, current: &mut Current) {
        let written = written(&self.configuration);
        if written == current.written {
            return;
        }
        match (self.make)(&self.configuration) {
            Ok(resolver) => {
                tracing::info!("the system's DNS configuration has changed");
                (current.resolver, current.written) = (Arc::new(resolver), written);
            }
            Err(error) => tracing::warn!(%error, "the system's DNS configuration cannot be used"),
        }
    }
}

impl Resolve for SystemResolver {
    fn lookup<'a>(&'a self, host: &'a str) -> Lookup<'a> {
        Box::pin(async move { ask(&self.current(), host).await })
    }
}

async fn ask(resolver: &TokioResolver, host: &str) -> Result<Resolved, ResolveError> {
    // A dotted name is meant as it stands; only a single label may get the system's search domains.
    let answer = if host.contains('.') {
        resolver.lookup_ip(format!("{host}.")).await
    } else {
        resolver.lookup_ip(host).await
    };
    let answer = answer.map_err(|error| match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => ResolveError::NotFound,
        error => failed(error),
    })?;
    let ttl = answer.valid_until().saturating_duration_since(std::time::Instant::now());
    Ok(Resolved { addresses: answer.iter().collect(), ttl })
}

fn system() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    // The one cache is ours: its entries live as long as the configuration says.
    options.cache_size = 0;
    options.timeout = QUERY_TIMEOUT;
    options.attempts = QUERY_RETRIES;
    builder.build()
}

fn written(configuration: &Path) -> Option<SystemTime> {
    fs::metadata(configuration).and_then(|metadata| metadata.modified()).ok()
}

fn failed(error: NetError) -> ResolveError {
    // That no server could be asked may be for want of a socket, which is not said; one of our own tells.
    let no_socket = match error {
        NetError::NoConnections => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).err(),
        _ => None,
    };
    ResolveError::Failed(no_socket.map_or_else(|| Box::from(error), Box::from))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;
    use tokio::task::JoinSet;

    use super::*;

    const ADDRESS: [u8; 4] = [192, 0, 2, 1];

    /// Of a file with nothing but the port of a name server on this machine.
    fn of_port(configuration: &Path) -> Result<TokioResolver, NetError> {
        let port = fs::read_to_string(configuration)?.parse();
        let mut connection = ConnectionConfig::udp();
        connection.port = port.map_err(|_| NetError::Message("no port"))?;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4Only;
        (options.timeout, options.attempts) = (Duration::from_secs(2), 0);
        builder.build()
    }

    /// Answers every question with the one address.
    async fn serve(socket: UdpSocket) {
        let mut message = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut message).await {
            let query = &message[..length];
            // The question is a name that ends with an empty label, a type and a class; what follows it is left out.
            let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
            let counts = [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
            let answer = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4];
            let message = [&query[..2], &counts, &query[12..end], &answer, &ADDRESS].concat();
            socket.send_to(&message, client).await.expect("a client");
        }
    }

    fn write(file: &Path, text: &str, age: u64) {
        fs::write(file, text).unwrap();
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age)).unwrap();
    }

    #[tokio::test]
    async fn a_name_server_that_has_moved_is_found_again() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(serve(socket));
        // Held, so that nobody else answers there; and nobody does.
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let file = std::env::temp_dir().join(format!("name-server-{}-{port}", std::process::id()));

        write(&file, &silent.local_addr().unwrap().port().to_string(), 1);
        let resolver = SystemResolver::with(&file, of_port).unwrap();
        assert!(matches!(resolver.lookup("a.example").await, Err(ResolveError::Failed(_))));
        let look_again = || resolver.current.lock().unwrap().looked_at -= RENEWAL_INTERVAL;
        write(&file, "half a", 2);
        look_again();
        assert!(matches!(resolver.lookup("a.example").await, Err(ResolveError::Failed(_))));
        write(&file, &port.to_string(), 3);
        look_again();
        let answer = resolver.lookup("a.example").await.unwrap();
        assert_eq!(answer.addresses, [IpAddr::from(ADDRESS)]);
        fs::remove_file(&file).unwrap();
    }
}
