//! Lists, newest first: rows are numbered as they come, and a cursor is the number of the last row shown.

use neo_events_store::{Cursor, PAGE_BYTES_MAX, Page, PageRequest, StoreError};

/// Rows as they came, newest first, each with its number.
pub(super) fn newest_first<T>(rows: &[T]) -> impl Iterator<Item = (u64, &T)> {
    rows.iter().enumerate().rev().map(|(no, row)| (no as u64, row))
}

/// A page of rows that come newest first, each with its number.
pub(super) fn page<T>(
    rows: impl Iterator<Item = (u64, T)>,
    request: &PageRequest,
) -> Result<Page<T>, StoreError> {
    page_weighed(rows, request, |_| 0)
}

/// The same, which also ends once its items are as heavy as a page may be.
pub(super) fn page_weighed<T>(
    rows: impl Iterator<Item = (u64, T)>,
    request: &PageRequest,
    bytes: impl Fn(&T) -> usize,
) -> Result<Page<T>, StoreError> {
    let before = match &request.cursor {
        None => u64::MAX,
        Some(cursor) => number(cursor)?,
    };
    let mut rows = rows.filter(|(no, _)| *no < before).peekable();
    let (mut items, mut last, mut size) = (Vec::new(), None, 0);
    while items.len() < request.limit as usize
        && size < PAGE_BYTES_MAX
        && let Some((no, item)) = rows.next()
    {
        size += bytes(&item);
        items.push(item);
        last = Some(no);
    }
    let next = last.filter(|_| rows.peek().is_some()).map(|no| Cursor::new(no.to_string()));
    Ok(Page { items, next })
}

fn number(cursor: &Cursor) -> Result<u64, StoreError> {
    cursor.as_str().parse::<u32>().map(u64::from).map_err(|_| StoreError::BadCursor)
}
