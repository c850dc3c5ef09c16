//! The byte stream under a connection: TCP, or TLS over TCP, with an allowance of bytes to read.
//!
//! Every exchange gets an allowance that covers the largest head and body that would be read. It is a second line
//! behind the limits of the HTTP parser and the flow control of HTTP/2, which bounds bodies alone: endless
//! informational responses or chunks that are all framing cost a receiver no more of our time than an honest large
//! answer.
//!
//! What comes over HTTP/2 is read in turns. Its driver queues what it has decoded for the exchanges, and a compressed
//! head is much larger when decoded, so they must get to run before there is more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The reason in the I/O error of a reader whose allowance is spent.
#[derive(Debug, thiserror::Error)]
#[error("the peer sent more than would be read")]
pub(crate) struct AllowanceSpent;

/// Bytes that are read from an HTTP/2 connection before others get to run.
const TURN_BYTES_MAX: usize = 16 * 1024;

/// How many more bytes may be read from a [`MeteredTcp`]. The reader alone counts what was read; whoever owns the
/// exchanges says how far it may go. So neither needs more than a load and a store.
#[derive(Clone, Debug)]
pub(crate) struct Allowance(Arc<Meter>);

#[derive(Debug)]
struct Meter {
    read: AtomicU64,
    read_max: AtomicU64,
}

impl Allowance {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(Meter { read: AtomicU64::new(0), read_max: AtomicU64::new(bytes) }))
    }

    /// So many bytes may be read from now on.
    pub(crate) fn set(&self, bytes: u64) {
        self.0.read_max.store(self.read().saturating_add(bytes), Ordering::Relaxed);
    }

    pub(crate) fn left(&self) -> u64 {
        self.0.read_max.load(Ordering::Relaxed).saturating_sub(self.read())
    }

    /// Bytes that were read so far.
    pub(crate) fn read(&self) -> u64 {
        self.0.read.load(Ordering::Relaxed)
    }

    fn spend(&self, bytes: usize) {
        self.0.read.store(self.read() + bytes as u64, Ordering::Relaxed);
    }
}

/// A TCP stream that counts what it reads.
#[derive(Debug)]
pub(crate) struct MeteredTcp {
    tcp: TcpStream,
    allowance: Allowance,
}

impl MeteredTcp {
    pub(crate) fn new(tcp: TcpStream, allowance: Allowance) -> Self {
        Self { tcp, allowance }
    }
}

impl AsyncRead for MeteredTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.allowance.left() == 0 {
            return Poll::Ready(Err(io::Error::other(AllowanceSpent)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer))?;
        self.allowance.spend(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

/// What HTTP is spoken over.
#[derive(Debug)]
pub(crate) struct Stream {
    transport: Transport,
    turn: Option<Turn>,
}

#[derive(Debug)]
enum Transport {
    Plain(MeteredTcp),
    Tls(Box<TlsStream<MeteredTcp>>),
}

/// What was read since others got to run.
#[derive(Debug, Default)]
struct Turn {
    bytes: usize,
}

impl Stream {
    pub(crate) fn plain(tcp: MeteredTcp) -> Self {
        Self { transport: Transport::Plain(tcp), turn: None }
    }

    pub(crate) fn tls(tls: TlsStream<MeteredTcp>) -> Self {
        Self { transport: Transport::Tls(Box::new(tls)), turn: None }
    }

    /// Whether the peer chose HTTP/2 in the TLS handshake.
    pub(crate) fn chose_http2(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// From now on it is read in turns.
    pub(crate) fn read_in_turns(&mut self) {
        self.turn = Some(Turn::default());
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { transport, turn } = self.get_mut();
        if let Some(turn) = turn
            && turn.bytes >= TURN_BYTES_MAX
        {
            turn.bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(match transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        })?;
        if let Some(turn) = turn {
            turn.bytes += buffer.filled().len() - before;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(tcp) => tcp.is_write_vectored(),
            Transport::Tls(tls) => tls.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is read before the reader has to wait, be there more or not.
    async fn turn(stream: &mut Stream) -> usize {
        poll_fn(|cx| {
            let mut bytes = 0;
            loop {
                let mut space = [0; 1000];
                let mut buffer = ReadBuf::new(&mut space);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(bytes),
                    Poll::Ready(read) => read.unwrap(),
                    Poll::Pending if bytes == 0 => return Poll::Pending,
                    Poll::Pending => return Poll::Ready(bytes),
                }
                bytes += buffer.filled().len();
            }
        })
        .await
    }

    #[tokio::test]
    async fn a_turn_ends_though_there_is_more_to_read() {
        const BYTES: usize = 5 * TURN_BYTES_MAX;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let write = async { peer.write_all(&vec![b'x'; BYTES]).await.unwrap() };
        let mut stream = Stream::plain(MeteredTcp::new(tcp, Allowance::new(u64::MAX)));
        stream.read_in_turns();
        let read = async {
            let mut left = BYTES;
            while left > 0 {
                let bytes = turn(&mut stream).await;
                assert!((1..TURN_BYTES_MAX + 1000).contains(&bytes), "{bytes}");
                left -= bytes;
            }
        };
        tokio::join!(write, read);
    }
}
