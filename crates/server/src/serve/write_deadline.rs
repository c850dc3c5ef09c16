//! A connection whose peer has to read: what cannot be written at once has [`WRITE_TIMEOUT`] until all of it is, however
//! steadily a little of it goes. Meanwhile nothing more is read, or answers to requests that were sent ahead would gather.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// How long a client may take to read an answer: who never does, or a byte at a time, must not hold its memory for ever.
/// The largest page, of 8 MiB, takes as long at 1.1 Mbit/s.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// A stream that breaks when its peer does not read.
pub(super) struct WriteDeadline {
    stream: TcpStream,
    /// Since something could not be written at once; ends when nothing is left of it.
    behind: Option<Pin<Box<Sleep>>>,
    /// Who wanted to read meanwhile.
    reading: Option<Waker>,
}

impl WriteDeadline {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream, behind: None, reading: None }
    }

    /// What became of so many bytes.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(bytes)) if bytes == wanted) {
            self.behind = None;
            if let Some(reading) = self.reading.take() {
                reading.wake();
            }
            return written;
        }
        let behind = self.behind.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        match behind.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => written,
        }
    }
}

impl AsyncRead for WriteDeadline {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.behind.is_some() {
            self.reading = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for WriteDeadline {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, written, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
