//! Request bodies: how they are read, how large they may be, and what exactly is wrong with one that is refused.
//!
//! Each has a limit of its own, and all that are large have one together: a body beyond [`SMALL_BYTES_MAX`] needs [`Room`]
//! for all of it, and keeps it until its request is answered ([`BodyRoom`]).
//!
//! A body is parsed once, straight from its bytes. Only if that fails it is read again, slowly, to find the place: a
//! body that is not JSON is malformed (400), JSON of the wrong shape breaks a rule (422) at a JSON pointer.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{body::Body, extract::FromRequest};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use neo_events::{
    Schema,
    domain::{json, violation::pointer_token},
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_path_to_error::{Path, Segment};
use tokio::time::{Instant, timeout_at};

use super::{
    not_yet::is_later,
    query::judge_absence,
    room::{Room, Rooms, SMALL_BYTES_MAX},
};
use crate::{problem::Refusal, wire::Fault};

/// A single input: 100 KiB of event data, 50 KiB of metadata, and ample room for the rest.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for all that are larger, in KiB: three of the largest batches. Read, parsed and on their way to the database they
/// take several times as much: `docs/security.md` has what was measured.
pub(super) const ROOM_KIB: u32 = 32 * 1024;
/// A tenant's part of it: two of the largest batches. What is left holds another one.
pub(super) const TENANT_ROOM_KIB: u32 = 21 * 1024;

/// The room of one request's body, from when it turned out to be large until the request is answered.
#[derive(Clone)]
pub(super) struct BodyRoom {
    rooms: Rooms,
    tenant: Schema,
    taken: Arc<OnceLock<Room>>,
}

impl BodyRoom {
    pub(super) fn new(rooms: Rooms, tenant: Schema) -> Self {
        Self { rooms, tenant, taken: Arc::default() }
    }

    /// Waits until there is room for so many bytes, not for ever.
    async fn widen_to(&self, bytes: usize) -> Result<(), Refusal> {
        let room = self.rooms.wait_for(bytes, &self.tenant).await.ok_or_else(Refusal::bodies_busy)?;
        let _ = self.taken.set(room);
        Ok(())
    }
}

/// A JSON body that must be there.
pub(super) struct Input<T>(pub(super) T);

/// A JSON body that may be absent; then everything in it is.
pub(super) struct OptionalInput<T>(pub(super) T);

/// The input of calls that take none: `{}`, or nothing at all.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Nothing {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Refusal> {
        judge_absence(request.uri())?;
        judge_json(&request)?;
        let bytes = read(request, BODY_BYTES_MAX).await?;
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalInput<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Refusal> {
        judge_absence(request.uri())?;
        let is_json = judge_json(&request);
        let bytes = read(request, BODY_BYTES_MAX).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        is_json.and_then(|()| parse(&bytes)).map(Self)
    }
}

/// How a body says it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaType {
    /// `application/json`
    Json,
    /// `application/x-ndjson`: a JSON text per line.
    Lines,
    /// Anything else, or nothing.
    Other,
}

impl MediaType {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Self::Other };
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") {
            Self::Json
        } else if essence.eq_ignore_ascii_case(b"application/x-ndjson")
            || essence.eq_ignore_ascii_case(b"application/ndjson")
        {
            Self::Lines
        } else {
            Self::Other
        }
    }
}

fn judge_json(request: &Request<Body>) -> Result<(), Refusal> {
    judge_encoding(request.headers())?;
    match MediaType::of(request.headers()) {
        MediaType::Json => Ok(()),
        _ if is_empty(request) => Err(Refusal::empty_body()),
        _ => Err(Refusal::unsupported_media_type("application/json")),
    }
}

pub(super) fn is_empty(request: &Request<Body>) -> bool {
    hyper::body::Body::is_end_stream(request.body())
}

pub(super) fn judge_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Refusal::unsupported_content_encoding())
        }
        _ => Ok(()),
    }
}

/// The whole body. One that came in one piece is not copied.
pub(super) async fn read(request: Request<Body>, bytes_max: usize) -> Result<Bytes, Refusal> {
    let mut room = request.extensions().get::<BodyRoom>().cloned();
    let mut body = request.into_body();
    let declared = hyper::body::Body::size_hint(&body).upper().and_then(|bytes| usize::try_from(bytes).ok());
    if declared.is_some_and(|bytes| bytes > bytes_max) {
        return Err(Refusal::body_too_large(bytes_max));
    }
    let deadline = Instant::now() + BODY_TIMEOUT;
    let mut read = BytesMut::new();
    loop {
        let frame =
            timeout_at(deadline, body.frame()).await.map_err(|_| Refusal::body_timeout(BODY_TIMEOUT))?;
        let Some(frame) = frame else { return Ok(read.freeze()) };
        // Trailers say nothing that is asked for.
        let Ok(data) = frame.map_err(|_| Refusal::incomplete_body())?.into_data() else { continue };
        let bytes = read.len() + data.len();
        if bytes > bytes_max {
            return Err(Refusal::body_too_large(bytes_max));
        }
        if bytes > SMALL_BYTES_MAX
            && let Some(room) = room.take()
        {
            room.widen_to(declared.unwrap_or(bytes_max)).await?;
        }
        if read.is_empty() && hyper::body::Body::is_end_stream(&body) {
            return Ok(data);
        }
        // At once for all of it, once it has room.
        let wanted = declared.filter(|_| bytes > SMALL_BYTES_MAX).unwrap_or(bytes);
        read.reserve(wanted - read.len());
        read.extend_from_slice(&data);
    }
}

/// An input from its JSON text.
pub(super) fn parse<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, Refusal> {
    // Derived structs would take an array of their fields, too.
    if text.trim_ascii_start().first() == Some(&b'[') {
        return Err(fault::<IgnoredAny>(text).unwrap_or_else(|| Refusal::invalid_at("", "must be an object")));
    }
    serde_json::from_slice(text)
        .map_err(|error| fault::<T>(text).unwrap_or_else(|| Refusal::malformed_json(error.to_string())))
}

/// What is wrong with a text; `None` if nothing is.
#[cold]
fn fault<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Option<Refusal> {
    if text.trim_ascii().is_empty() {
        return Some(Refusal::empty_body());
    }
    if let Some(detail) = malformed(text) {
        return Some(Refusal::malformed_json(detail));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let error = serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?;
    // Whatever the parser calls it: the text is JSON, so one of its values has no place here (`1e400` is no `f64`).
    Some(Refusal::invalid(vec![misshapen(error.path(), error.inner())]))
}

/// Why a text is not JSON, and where; `None` if it is.
fn malformed(bytes: &[u8]) -> Option<String> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Some(format!("invalid UTF-8 {}", place(bytes, error.valid_up_to()))),
    };
    let error = json::check(text, json::DEPTH_LIMIT).err()?;
    match error.reason() {
        // JSON all the same; whether it may be so deep is asked where it stands.
        json::Reason::TooDeep { .. } => {
            serde_json::from_str::<IgnoredAny>(text).err().map(|error| error.to_string())
        }
        reason => Some(format!("{reason} {}", place(bytes, error.offset()))),
    }
}

/// A byte's place, for people.
fn place(bytes: &[u8], offset: usize) -> String {
    let before = &bytes[..offset.min(bytes.len())];
    let lines = || before.split(|byte| *byte == b'\n');
    let last = lines().next_back().unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    format!("at line {} column {column}", lines().count())
}

/// Where the shape is broken, and how.
fn misshapen(path: &Path, error: &serde_json::Error) -> Fault {
    let mut pointer = pointer(path);
    let detail = error.to_string();
    let detail = detail.rsplit_once(" at line ").map_or(detail.as_str(), |(words, _)| words);
    if let Some(field) = quoted_after(detail, "missing field ") {
        pointer = format!("{pointer}/{}", pointer_token(field));
        return Fault { pointer, detail: "is required".to_owned() };
    }
    let named = quoted_after(detail, "unknown field ").or_else(|| quoted_after(detail, "duplicate field "));
    if let Some(field) = named {
        let place = format!("/{}", pointer_token(field));
        if !pointer.ends_with(&place) {
            pointer.push_str(&place);
        }
    }
    if named.or_else(|| quoted_after(detail, "unknown variant ")).is_some_and(|word| is_later(word, detail)) {
        return Fault { pointer, detail: "is not here yet".to_owned() };
    }
    Fault { pointer, detail: in_words(&abridged(detail)) }
}

fn pointer(path: &Path) -> String {
    let part = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", pointer_token(key)),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    };
    path.iter().map(part).collect()
}

/// The beginning and the end of the parser's words, which may quote a whole body between them.
fn abridged(detail: &str) -> Cow<'_, str> {
    const BYTES_MAX: usize = 200;
    if detail.len() <= 2 * BYTES_MAX {
        return Cow::Borrowed(detail);
    }
    let head = detail.floor_char_boundary(BYTES_MAX);
    let tail = detail.ceil_char_boundary(detail.len() - BYTES_MAX);
    Cow::Owned(format!("{}…{}", &detail[..head], &detail[tail..]))
}

fn quoted_after<'t>(text: &'t str, beginning: &str) -> Option<&'t str> {
    text.strip_prefix(beginning)?.strip_prefix('`')?.split('`').next()
}

/// The parser's words, without names of Rust's types.
fn in_words(detail: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("expected u32", "expected a whole number, 0 or greater"),
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected an array"),
        ("expected a map", "expected an object"),
        ("invalid type: map", "invalid type: object"),
    ];
    let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
    WORDS.iter().fold(detail.to_owned(), replace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{EventIn, VerifyIn};

    fn check<T: DeserializeOwned>(text: &[u8], code: &str, place: Option<&str>, says: &str) {
        let Err(refusal) = parse::<T>(text) else { panic!("accepted {}", text.escape_ascii()) };
        let problem = refusal.into_problem();
        let found = problem.errors.first().map(|fault| fault.pointer.as_str());
        assert_eq!(
            (problem.code.as_ref(), found),
            (code, place),
            "{}: {}",
            text.escape_ascii(),
            problem.detail
        );
        assert!(problem.detail.contains(says), "{}: {}", text.escape_ascii(), problem.detail);
    }

    #[test]
    fn malformed_texts_are_told_from_misshapen_ones() {
        let malformed = |text: &[u8], says| check::<EventIn>(text, "malformed_json", None, says);
        malformed(b"{", "unexpected end of the text at line 1 column 2");
        malformed(b"nope", "at line 1 column 2");
        malformed(b"{\"event_type\":\"a.b\",\n}", "at line 2 column 1");
        malformed(b"{\"event_type\":\"\xff\"}", "invalid UTF-8 at line 1 column 16");
        malformed(
            b"{\"event_type\":\"a.b\",\"event_data\":{\"x\":\"\xff\"}}",
            "invalid UTF-8 at line 1 column 40",
        );
        malformed(b"{\"event_type\":\"\\ud800\"}", "lone surrogate in a string at line 1 column 16");
        malformed(b"{\"event_type\":\"a\0b\"}", "control character");
        malformed(b"{} {}", "unexpected content after the value at line 1 column 4");
        malformed(b"[}", "at line 1 column 2");
        // Wrong in shape, but not JSON in the first place.
        malformed(b"{\"nope\":1", "unexpected end of the text");
        check::<EventIn>(b" \n", "empty_body", None, "");

        let misshapen =
            |text: &[u8], place, says| check::<EventIn>(text, "validation_failed", Some(place), says);
        misshapen(b"{}", "/event_type", "is required");
        misshapen(
            b"{\"event_type\":\"a.b\",\"event_data\":{},\"aggregate_version\":-1e400}",
            "/aggregate_version",
            "number out of range",
        );
        misshapen(b"{\"event_type\":\"a.b\"}", "/event_data", "is required");
        misshapen(b"{\"event_typo\":1}", "/event_typo", "unknown field `event_typo`");
        misshapen(b"{\"a/b~\":1}", "/a~1b~0", "unknown field");
        misshapen(b"{\"event_type\":1}", "/event_type", "invalid type: integer `1`, expected a string");
        misshapen(b"{\"event_type\":\"a.b\",\"event_type\":\"a.b\"}", "/event_type", "duplicate field");
        misshapen(b"{\"aggregate_version\":1.5}", "/aggregate_version", "expected a whole number");
        misshapen(b"{\"id\":\"x\"}", "/id", "UUID");
        misshapen(b"{\"occurred_at\":\"yesterday\"}", "/occurred_at", "");
        misshapen(b"{\"occurred_at\":\"2026-11-21T12:00:00\"}", "/occurred_at", "");
        misshapen(b"[]", "", "must be an object");
        misshapen(b"null", "", "expected an object");
        misshapen(b"3", "", "expected an object");
        check::<VerifyIn>(b"{\"level\":\"strict\"}", "validation_failed", Some("/level"), "`basic`");
    }

    #[tokio::test]
    async fn a_large_body_takes_room_also_if_it_comes_in_one_piece() {
        for (bytes, kib) in [(SMALL_BYTES_MAX, 0), (SMALL_BYTES_MAX + 1, 65), (BODY_BYTES_MAX, 256)] {
            let rooms = Rooms::new(ROOM_KIB, TENANT_ROOM_KIB);
            let room = BodyRoom::new(rooms.clone(), Schema::admin());
            let mut request = Request::new(Body::from(vec![b' '; bytes]));
            request.extensions_mut().insert(room.clone());
            assert_eq!(read(request, BODY_BYTES_MAX).await.unwrap().len(), bytes);
            assert_eq!(rooms.taken_of_admin_kib(), kib, "{bytes}");
            drop(room);
            assert_eq!(rooms.taken_of_admin_kib(), 0, "it is answered");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |field: &str| {
            let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
            format!("{{\"event_type\":\"a.b\",\"{field}\":{nested}}}").into_bytes()
        };
        check::<EventIn>(&deep("id"), "validation_failed", Some("/id"), "expected a");
        check::<EventIn>(&deep("nope"), "validation_failed", Some("/nope"), "unknown field");
        // Raw JSON has no depth here; the domain bounds it.
        assert!(parse::<EventIn>(&deep("event_data")).is_ok());
    }
}
