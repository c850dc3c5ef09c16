//! A network that can be bad: a TCP proxy on the loopback interface that delays what it passes on, and resets connections.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

const BUFFER_BYTES: usize = 64 * 1024;

/// Passes on to one address, until it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Connections that were reset.
    broken: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Weather {
    /// In each direction.
    delay: Duration,
    /// Resets so far.
    resets: usize,
    /// The last of them concerned one in so many connections.
    one_in: usize,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, seen) = watch::channel(Weather::default());
        let (mut tasks, broken) = (JoinSet::new(), Arc::default());
        tasks.spawn(accept(listener, target, seen, Arc::clone(&broken)));
        Self { address, weather, broken, _tasks: tasks }
    }

    /// From now on, every byte takes so long in each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// How many connections were reset so far.
    pub(crate) fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }

    /// Resets one in so many connections, in turn.
    pub(crate) fn reset_one_in(&self, one_in: usize) {
        self.weather.send_modify(|weather| {
            weather.resets += 1;
            weather.one_in = one_in;
        });
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    broken: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let (client, _) = listener.accept().await.unwrap();
        let (weather, broken) = (weather.clone(), Arc::clone(&broken));
        connections.spawn(async move {
            if connection(number, client, target, weather).await {
                broken.fetch_add(1, Ordering::Relaxed);
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Answers whether it was reset.
async fn connection(
    number: usize,
    mut client: TcpStream,
    target: SocketAddr,
    mut weather: watch::Receiver<Weather>,
) -> bool {
    let Ok(mut server) = TcpStream::connect(target).await else { return false };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    weather.mark_unchanged();
    let delays = weather.clone();
    let is_reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let mut there = pin!(pass(from_client, to_server, delays.clone()));
        let mut back = pin!(pass(from_server, to_client, delays));
        loop {
            tokio::select! {
                () = &mut there => break false,
                () = &mut back => break false,
                changed = weather.changed() => {
                    let now = weather.borrow();
                    if changed.is_err() || now.one_in > 0 && (number + now.resets).is_multiple_of(now.one_in) {
                        break true;
                    }
                }
            }
        }
    };
    if is_reset {
        for stream in [&client, &server] {
            stream.set_zero_linger().unwrap();
        }
    }
    is_reset
}

/// Passes on what comes until it ends, each piece after its delay.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    weather: watch::Receiver<Weather>,
) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let arrival = Instant::now() + weather.borrow().delay;
            if sender.send((arrival, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        drop(sender);
    };
    let writing = async {
        while let Some((arrival, piece)) = under_way.recv().await {
            sleep_until(arrival).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}
