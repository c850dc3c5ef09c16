//! One kept-alive HTTP/1.1 connection: what a caller with a pool has for each request that is under way.
//!
//! `client::Client` connects anew for every call; at a bench's rates that would measure little else.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use crate::cli::failure::{Failure, with_causes};

/// After so long without a request a new connection is made: the server closes idle ones after 10 s.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// A connection, made again where it was idle for long.
pub(crate) struct Connection {
    address: SocketAddr,
    open: Open,
    used_at: Instant,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { address, open: Open::new(address).await?, used_at: Instant::now() })
    }

    /// Sends a request and reads its whole answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        if self.used_at.elapsed() > IDLE_MAX || self.open.sender.is_closed() {
            self.open = Open::new(self.address).await?;
        }
        let exchanged = self.exchange(request).await;
        self.used_at = Instant::now();
        exchanged.map_err(|error| broken(self.address, &error))
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<(StatusCode, Bytes)> {
        self.open.sender.ready().await?;
        let response = self.open.sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

impl Open {
    async fn new(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(|error| broken(address, &error))?;
        stream.set_nodelay(true).map_err(|error| broken(address, &error))?;
        let connected = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = connected.map_err(|error| broken(address, &error))?;
        let mut driver = JoinSet::new();
        // How it ends is seen by the request that is under way.
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { sender, _driver: driver })
    }
}

fn broken(address: SocketAddr, error: &dyn std::error::Error) -> Failure {
    Failure::Serve {
        message: format!("the connection to {address} broke: {}", with_causes(error)),
        advice: None,
    }
}
