//! Reading the body of a response, up to a limit.
//!
//! What lies beyond the limit is not read, not even to keep the connection: draining is what a flooding receiver
//! hopes for. Bodies are copied out of the connection's buffer, so that a kept response of two bytes does not keep
//! that buffer with it. They are left where the caller finds them if reading breaks off.
//!
//! A body whose length nobody has said ends with the connection. Over TLS that asks for a farewell, and common servers
//! close without one; such a body counts as cut short, and its answer as one.

use bytes::BytesMut;
use http::{HeaderMap, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};

use crate::connection::Connection;
use crate::failure::{FailureKind, Fault};

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// Where it says itself.
    Told,
    /// Where the connection ends.
    Untold,
}

impl Length {
    pub(crate) fn of(version: Version, headers: &HeaderMap) -> Self {
        let told = version >= Version::HTTP_2
            || headers.contains_key(header::CONTENT_LENGTH)
            || headers.contains_key(header::TRANSFER_ENCODING);
        if told { Self::Told } else { Self::Untold }
    }
}

/// What was read of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    Truncated,
}

/// Reads into an empty `body`, at most `bytes_max`.
pub(crate) async fn read(
    connection: &mut Connection,
    (mut incoming, length): (Incoming, Length),
    bytes_max: usize,
    body: &mut BytesMut,
) -> Result<Extent, Fault> {
    while !incoming.is_end_stream() {
        let Some(frame) = connection.next_frame(&mut incoming).await else {
            // hyper takes an HTTP/2 stream that breaks off without an error's code for one that has ended. What a proxy
            // sends when the server behind it is gone is such a reset.
            if matches!(connection, Connection::Http2(_)) && !incoming.is_end_stream() {
                return Err(Fault::reset());
            }
            break;
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return end_of(length, Fault::from_exchange(&error)),
        };
        let Ok(chunk) = frame.into_data() else { continue };
        let room = bytes_max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Extent::Truncated);
        }
    }
    Ok(Extent::Whole)
}

/// Whether an answer announces a body that it cannot have (RFC 9112, section 6.3). Some receivers send it all the same:
/// whoever used the connection next would read it as their answer.
pub(crate) fn may_come_late(status: StatusCode, headers: &HeaderMap) -> bool {
    let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let announces = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    has_none && announces
}

fn end_of(length: Length, fault: Fault) -> Result<Extent, Fault> {
    let is_closed = fault.kind == FailureKind::ConnectionClosed;
    if length == Length::Untold && is_closed { Ok(Extent::Truncated) } else { Err(fault) }
}
