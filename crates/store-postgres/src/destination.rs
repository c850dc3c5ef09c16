//! Which server a connection goes to, of those that a URL names.
//!
//! A URL may name several hosts, and a name may have several addresses; one of them is the primary, after a failover
//! another one than before. What is gone does not always say so: a machine that has lost its power takes no connection
//! and refuses none, one that hangs takes it and says no word. So the servers are tried beside each other (as RFC 8305
//! has it for addresses): the next one as soon as one has failed, or has not been reached for [`STAGGER`]. The first that
//! will do is taken, and tried first the next time.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};
use tokio_postgres::{
    Config,
    config::{Host, LoadBalanceHosts},
};

use crate::{failure::Failure, tls::Tls};

/// How long a server is waited for before the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(300);
/// Where a server listens unless somebody says otherwise.
pub(crate) const PORT_DEFAULT: u16 = 5432;

/// What a server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whatever the URL says.
    Any,
    /// A primary that takes writes.
    Primary,
    /// A primary. That somebody has made it read-only does not matter to whoever only reads.
    PrimaryToRead,
}

/// Connects to the one server that it is given.
pub(crate) type Connect<'a, T> = dyn Fn(Config) -> BoxFuture<'a, Result<T, Failure>> + Sync + 'a;

/// Where connections go, how, and with what settings.
#[derive(Clone)]
pub(crate) struct Destination {
    pub(crate) config: Config,
    pub(crate) tls: Tls,
    pub(crate) wanted: Wanted,
    /// Shared by all that go to the servers of one URL.
    pub(crate) last: Arc<LastServer>,
}

/// The server that was connected to last: which of the hosts, and at which of its addresses.
#[derive(Default)]
pub(crate) struct LastServer(Mutex<Option<(usize, Option<IpAddr>)>>);

impl Destination {
    /// Connects to the first server that `connect` finds fit. What it is given names one host with one address; it has the
    /// URL's `connect_timeout` for all that it does.
    pub(crate) async fn reach<T: Send>(&self, connect: &Connect<'_, T>) -> Result<T, Failure> {
        let hosts = self.hosts();
        first_fit(hosts.iter().map(|host| self.reach_host(host, connect).boxed()).collect()).await
    }

    async fn reach_host<T: Send>(&self, host: &NamedHost, connect: &Connect<'_, T>) -> Result<T, Failure> {
        let Some(name) = host.name_to_resolve() else { return self.reach_addr(host, None, connect).await };
        let looked_up = within_limit(&self.config, async {
            tokio::net::lookup_host((name, host.port())).await.map_err(Failure::Unresolved)
        });
        let mut addrs: Vec<IpAddr> = looked_up.await?.map(|addr| addr.ip()).collect();
        self.order(&mut addrs, |addr, (_, last)| Some(*addr) == last);
        let attempts = addrs.into_iter().map(|addr| self.reach_addr(host, Some(addr), connect).boxed());
        first_fit(attempts.collect()).await
    }

    async fn reach_addr<T: Send>(
        &self,
        host: &NamedHost,
        addr: Option<IpAddr>,
        connect: &Connect<'_, T>,
    ) -> Result<T, Failure> {
        let mut config = host.config.clone();
        if let Some(addr) = addr {
            config.hostaddr(addr);
        }
        let reached = within_limit(&self.config, connect(config)).await?;
        *self.last.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((host.index, addr));
        Ok(reached)
    }

    /// The hosts in the order in which they are tried.
    fn hosts(&self) -> Vec<NamedHost> {
        let mut hosts = NamedHost::all_of(&self.config);
        self.order(&mut hosts, |host, (last, _)| host.index == last);
        hosts
    }

    /// The last one first; or by chance, if the URL wants that (`load_balance_hosts=random`).
    fn order<T>(&self, servers: &mut [T], is_last: impl Fn(&T, (usize, Option<IpAddr>)) -> bool) {
        if self.config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            let chance = RandomState::new();
            let mut place = 0_usize;
            servers.sort_by_cached_key(|_| {
                place += 1;
                chance.hash_one(place)
            });
        } else if let Some(last) = *self.last.0.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(at) = servers.iter().position(|server| is_last(server, last))
        {
            servers[..=at].rotate_right(1);
        }
    }
}

/// One of a URL's hosts, by itself.
struct NamedHost {
    index: usize,
    config: Config,
}

impl NamedHost {
    /// If there is none, or not as many addresses or ports as hosts, the whole is one: the driver says what is wrong with it.
    fn all_of(config: &Config) -> Vec<Self> {
        let (hosts, addrs, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
        let count = hosts.len().max(addrs.len());
        let fits = |len: usize, least: usize| len == count || len == least;
        if count == 0
            || !fits(hosts.len(), 0)
            || !fits(addrs.len(), 0)
            || !(fits(ports.len(), 0) || ports.len() == 1)
        {
            return vec![Self { index: 0, config: config.clone() }];
        }
        let one = |index| {
            let mut one = without_hosts(config);
            match hosts.get(index) {
                Some(Host::Tcp(name)) => {
                    one.host(name);
                }
                Some(Host::Unix(folder)) => {
                    one.host_path(folder);
                }
                None => {}
            }
            if let Some(addr) = addrs.get(index) {
                one.hostaddr(*addr);
            }
            if let Some(port) = ports.get(index).or(ports.first()) {
                one.port(*port);
            }
            Self { index, config: one }
        };
        (0..count).map(one).collect()
    }

    /// `None` if it is a socket of this machine, or the URL says where it is.
    fn name_to_resolve(&self) -> Option<&str> {
        match self.config.get_hosts() {
            [Host::Tcp(name)] if self.config.get_hostaddrs().is_empty() => Some(name),
            _ => None,
        }
    }

    fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(PORT_DEFAULT)
    }
}

/// All other settings.
fn without_hosts(config: &Config) -> Config {
    let mut other = Config::new();
    if let Some(user) = config.get_user() {
        other.user(user);
    }
    if let Some(password) = config.get_password() {
        other.password(password);
    }
    if let Some(name) = config.get_dbname() {
        other.dbname(name);
    }
    if let Some(options) = config.get_options() {
        other.options(options);
    }
    if let Some(name) = config.get_application_name() {
        other.application_name(name);
    }
    if let Some(time) = config.get_connect_timeout() {
        other.connect_timeout(*time);
    }
    if let Some(time) = config.get_tcp_user_timeout() {
        other.tcp_user_timeout(*time);
    }
    if let Some(time) = config.get_keepalives_interval() {
        other.keepalives_interval(time);
    }
    if let Some(count) = config.get_keepalives_retries() {
        other.keepalives_retries(count);
    }
    other
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding());
    other
}

/// The driver's own limit ends with the TCP connection.
async fn within_limit<T>(
    config: &Config,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match config.get_connect_timeout() {
        Some(limit) => timeout(*limit, step).await.unwrap_or(Err(Failure::NoWord)),
        None => step.await,
    }
}

/// The first attempt that succeeds; each begins when one before it has failed, or has taken [`STAGGER`]. If all fail, what
/// says most.
async fn first_fit<T>(attempts: Vec<BoxFuture<'_, Result<T, Failure>>>) -> Result<T, Failure> {
    let (mut attempts, mut under_way) = (attempts.into_iter(), FuturesUnordered::new());
    let mut failures = Vec::new();
    loop {
        under_way.extend(attempts.next());
        tokio::select! {
            ended = under_way.next() => match ended {
                Some(Ok(reached)) => return Ok(reached),
                Some(Err(failure)) => failures.push(failure),
                None => break,
            },
            () = sleep(STAGGER), if attempts.len() > 0 => {}
        }
    }
    // A primary that takes no writes is what was looked for; a standby says only that the primary is somewhere else.
    let says = |failure: &Failure| match failure {
        Failure::ReadOnly => 2,
        Failure::Standby => 0,
        _ => 1,
    };
    Err(failures.into_iter().max_by_key(says).unwrap_or(Failure::NoWord))
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::tls::TlsChoice;

    fn to(config: &str) -> Destination {
        let tls = Tls::try_new(&TlsChoice::parse(Some("disable"), None).unwrap()).unwrap();
        let config = config.parse().unwrap();
        Destination { config, tls, wanted: Wanted::Any, last: Arc::default() }
    }

    /// Which hosts are tried, by their ports, where one behaves like this.
    async fn tried(to: &Destination, behaviour: fn(u16) -> Behaviour) -> (Vec<u16>, bool) {
        let tried = Mutex::new(Vec::new());
        let connect = |config: Config| {
            let [port] = *config.get_ports() else { panic!("{config:?} is not one host") };
            assert_eq!((config.get_hosts().len(), config.get_hostaddrs().len()), (1, 1));
            tried.lock().unwrap().push(port);
            match behaviour(port) {
                Behaviour::Serves => ready(Ok(())).boxed(),
                Behaviour::Fails(failure) => ready(Err(failure)).boxed(),
                Behaviour::Hangs => pending().boxed(),
            }
        };
        let is_reached = to.reach(&connect).await.is_ok();
        (tried.into_inner().unwrap(), is_reached)
    }

    enum Behaviour {
        Serves,
        Fails(Failure),
        Hangs,
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_keeps_nobody_from_the_others() {
        let to = to("host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,2,3 connect_timeout=5");
        let began = tokio::time::Instant::now();
        let only_third = |port| match port {
            1 => Behaviour::Hangs,
            2 => Behaviour::Fails(Failure::Standby),
            _ => Behaviour::Serves,
        };
        assert_eq!(tried(&to, only_third).await, (vec![1, 2, 3], true));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(
            tried(&to, only_third).await,
            (vec![3], true),
            "the last one that would do is tried first"
        );
        let second = |port| if port == 2 { Behaviour::Serves } else { Behaviour::Hangs };
        assert_eq!(tried(&to, second).await, (vec![3, 1, 2], true), "and is not all that is tried");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_no_word_has_the_time_of_the_url_and_no_more() {
        let to = to("host=127.0.0.1,127.0.0.1 port=1,2 connect_timeout=2");
        let began = tokio::time::Instant::now();
        assert_eq!(tried(&to, |_| Behaviour::Hangs).await, (vec![1, 2], false));
        assert_eq!(began.elapsed(), Duration::from_secs(2) + STAGGER);
    }

    #[tokio::test]
    async fn of_all_failures_the_one_is_told_that_says_most() {
        let to = to("host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,2,3");
        let told = async |of_port: fn(u16) -> Failure| {
            let refuse = |config: Config| ready(Err::<(), _>(of_port(config.get_ports()[0]))).boxed();
            to.reach(&refuse).await.unwrap_err()
        };
        let read_only = told(|port| if port == 2 { Failure::ReadOnly } else { Failure::Closed }).await;
        assert!(matches!(read_only, Failure::ReadOnly), "{read_only}");
        let closed = told(|port| if port == 2 { Failure::Closed } else { Failure::Standby }).await;
        assert!(matches!(closed, Failure::Closed), "{closed}");
    }

    #[tokio::test]
    async fn hosts_are_tried_by_chance_if_the_url_says_so() {
        let to = to("host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,2,3 load_balance_hosts=random");
        let first = AtomicUsize::new(0);
        for _ in 0..200 {
            let (tried, _) = tried(&to, |_| Behaviour::Serves).await;
            first.fetch_or(1 << tried[0], Ordering::Relaxed);
        }
        assert_eq!(first.into_inner(), 0b1110, "each was the first once");
    }

    #[test]
    fn every_setting_of_a_url_is_kept_for_each_of_its_hosts() {
        let url = "postgres://u:p@a:1,b:2/d?options=-c%20jit%3Doff&application_name=x&connect_timeout=7&\
                   tcp_user_timeout=8&keepalives=0&keepalives_idle=9&keepalives_interval=10&keepalives_retries=11&\
                   target_session_attrs=read-only&channel_binding=require&sslmode=require&sslnegotiation=direct";
        let config: Config = url.parse().unwrap();
        let [first, second] = &NamedHost::all_of(&config)[..] else { panic!("two hosts") };
        let one = |host: &str| url.replace("a:1,b:2", host).parse::<Config>().unwrap();
        assert_eq!((&first.config, &second.config), (&one("a:1"), &one("b:2")));
        assert_ne!(config, one("a:1"));
    }
}
