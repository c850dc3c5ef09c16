//! Lists in pages, by cursor: newest first, but for an aggregate's events.

use neo_events_domain::Timestamp;

/// How large the items of a page may be together, in bytes; the last one may exceed it. What an item weighs is what can
/// make it large: texts that others wrote, and lists without a limit of their own.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What the id of a subscription weighs: 36 characters, quotes and a comma.
pub const SUBSCRIPTION_ID_WEIGHT: usize = 39;

/// Where a list goes on: opaque to everyone but the store that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor as a client gave it back, or as a store made it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text to hand out.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which page of a list.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Most items.
    pub limit: u32,
    /// Where to go on; the beginning if absent.
    pub cursor: Option<Cursor>,
}

impl PageRequest {
    /// The first page.
    pub const fn first(limit: u32) -> Self {
        Self { limit, cursor: None }
    }
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// At most `limit` items; fewer where they are large, though more follow.
    pub items: Vec<T>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// `from` ≤ time < `to`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimeRange {
    /// Not before.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
}
