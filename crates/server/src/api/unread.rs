//! Answers that are not read yet. One that is large takes room in memory until the last of it is with the system, which is
//! when its reader has taken most of it; while there is none, what can be asked again is refused.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use neo_events::Schema;

use super::room::{Room, Rooms, SMALL_BYTES_MAX};

/// Room for all large answers, in KiB: eight of the largest pages.
pub(super) const ROOM_KIB: u32 = 64 * 1024;
/// A tenant's part of it. What is left holds a page of attempts whose bodies are twice as long in JSON.
pub(super) const TENANT_ROOM_KIB: u32 = 46 * 1024;

/// An answer's bytes and their room, which end together.
struct Unread {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Lets an answer have its room. Gives back nothing if there is none.
pub(super) async fn with_room(response: Response, rooms: &Rooms, tenant: &Schema) -> Option<Response> {
    let bytes = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    let Some(bytes) = bytes.filter(|bytes| *bytes > SMALL_BYTES_MAX) else { return Some(response) };
    let room = rooms.take(bytes, tenant)?;
    let (head, body) = response.into_parts();
    // Handlers make their bodies whole: there is nothing to wait for, and nothing that fails.
    let bytes = body.collect().await.ok()?.to_bytes();
    Some(Response::from_parts(head, Body::from(Bytes::from_owner(Unread { bytes, _room: room }))))
}
