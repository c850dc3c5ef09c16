//! Reading the body of a response, up to a limit.
//!
//! What lies beyond the limit is not read, not even to keep the connection: draining is what a flooding receiver
//! hopes for. Bodies are copied out of the connection's buffer, so that a kept response of two bytes does not keep
//! that buffer with it.

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};

use crate::connection::Connection;
use crate::failure::Fault;

/// What was read of a body.
pub(crate) enum Read {
    Whole(Bytes),
    Truncated(Bytes),
}

pub(crate) async fn read(
    connection: &mut Connection,
    mut incoming: Incoming,
    bytes_max: usize,
) -> Result<Read, Fault> {
    let mut body = BytesMut::new();
    while !incoming.is_end_stream() {
        let Some(frame) = connection.next_frame(&mut incoming).await else { break };
        let frame = frame.map_err(|error| Fault::from_exchange(&error))?;
        let Ok(chunk) = frame.into_data() else { continue };
        let room = bytes_max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Read::Truncated(body.freeze()));
        }
    }
    Ok(Read::Whole(body.freeze()))
}
