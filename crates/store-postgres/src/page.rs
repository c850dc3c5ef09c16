//! Lists in pages, mostly newest first, by the key of the last row of the page before.

use neo_events_domain::{Timestamp, Uuid};
use neo_events_store::{Cursor, PAGE_BYTES_MAX, Page, PageRequest};
use tokio_postgres::Row;

use crate::{columns::Columns, failure::Failure};

/// How many rows to ask for, so as to know whether more follow.
pub(crate) fn limit_of(page: &PageRequest) -> i64 {
    i64::from(page.limit.max(1)) + 1
}

/// Cuts a page from rows that were asked for with [`limit_of`]. It ends early once its items are as large as
/// [`PAGE_BYTES_MAX`], so that a page of the largest events does not fill the memory.
pub(crate) fn page<T>(
    rows: Vec<T>,
    request: &PageRequest,
    cursor: impl Fn(&T) -> Cursor,
    bytes: impl Fn(&T) -> usize,
) -> Page<T> {
    let limit = usize::try_from(request.limit.max(1)).unwrap_or(usize::MAX);
    let (mut items, mut size): (Vec<T>, usize) = (Vec::new(), 0);
    for row in rows {
        if items.len() == limit || (!items.is_empty() && size >= PAGE_BYTES_MAX) {
            let next = items.last().map(cursor);
            return Page { items, next };
        }
        size += bytes(&row);
        items.push(row);
    }
    Page { items, next: None }
}

/// What a row weighs in a page that its statement weighs itself, in its last column: what the database counted and what is
/// counted here is then the same ([`crate::sql::Sql::filling_a_page`]).
pub(crate) fn weight(columns: &mut Columns<'_>) -> Result<usize, Failure> {
    usize::try_from(columns.take::<i32>()?).map_err(|error| Failure::Stored(error.into()))
}

/// For rows in which everything has a narrow limit: a thousand of them are no burden.
pub(crate) const fn small<T>(_: &T) -> usize {
    0
}

/// A cursor over rows numbered by the order in which they were made: the number, in decimal.
pub(crate) fn number_cursor(no: i64) -> Cursor {
    Cursor::new(no.to_string())
}

/// Cuts a page from rows whose first column is their number, and whose others `read` reads.
pub(crate) fn numbered_page<T>(
    rows: &[Row],
    request: &PageRequest,
    read: impl Fn(&mut Columns<'_>) -> Result<T, Failure>,
    bytes: impl Fn(&T) -> usize,
) -> Result<Page<T>, Failure> {
    let numbered = |row| {
        let mut columns = Columns::of(row);
        Ok((columns.take()?, read(&mut columns)?))
    };
    let rows: Vec<(i64, T)> = rows.iter().map(numbered).collect::<Result<_, Failure>>()?;
    let Page { items, next } = page(rows, request, |(no, _)| number_cursor(*no), |(_, item)| bytes(item));
    Ok(Page { items: items.into_iter().map(|(_, item)| item).collect(), next })
}

/// The number before which a page begins.
pub(crate) fn before_number(request: &PageRequest) -> Result<i64, Failure> {
    let Some(cursor) = &request.cursor else { return Ok(i64::MAX) };
    let no = cursor.as_str().parse::<i64>().ok().filter(|no| *no > 0);
    no.filter(|no| no.to_string() == cursor.as_str()).ok_or(Failure::Cursor)
}

/// A cursor over rows by id.
pub(crate) fn id_cursor(id: Uuid) -> Cursor {
    Cursor::new(id.simple().to_string())
}

/// The id before which a page begins; the greatest there can be for the first one.
pub(crate) fn before_id(request: &PageRequest) -> Result<Uuid, Failure> {
    let Some(cursor) = &request.cursor else { return Ok(Uuid::max()) };
    let id = Uuid::try_parse(cursor.as_str()).map_err(|_| Failure::Cursor)?;
    if id.simple().to_string() == cursor.as_str() { Ok(id) } else { Err(Failure::Cursor) }
}

/// A cursor over rows by time, then by id: microseconds, a dash, the id.
pub(crate) fn time_cursor(at: Timestamp, id: Uuid) -> Cursor {
    Cursor::new(format!("{}-{}", at.as_microsecond(), id.simple()))
}

/// The time and id before which a page begins; `None` for the first one.
pub(crate) fn before_time(request: &PageRequest) -> Result<Option<(Timestamp, Uuid)>, Failure> {
    request.cursor.as_ref().map(|cursor| time_and_id(cursor.as_str())).transpose()
}

/// Of the times that the database is given: its calendar begins in 4713 BC, the year 0 is early enough.
pub(crate) fn beginning() -> Timestamp {
    Timestamp::from_second(-62_167_219_200).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn time_and_id(text: &str) -> Result<(Timestamp, Uuid), Failure> {
    let (micros, id) = text.rsplit_once('-').ok_or(Failure::Cursor)?;
    let at = micros.parse().ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
    let at = at.filter(|at| *at >= beginning());
    let (at, id) = (at.ok_or(Failure::Cursor)?, Uuid::try_parse(id).map_err(|_| Failure::Cursor)?);
    if time_cursor(at, id).as_str() == text { Ok((at, id)) } else { Err(Failure::Cursor) }
}

/// Where an event stands among those of its aggregate: its version, its time and its id.
type Place = (u32, Timestamp, Uuid);

/// A cursor over an aggregate's events: the version, a dash, and as above.
pub(crate) fn place_cursor((version, at, id): Place) -> Cursor {
    Cursor::new(format!("{version}-{}", time_cursor(at, id).as_str()))
}

/// The place after which a page begins, of those after a version.
pub(crate) fn after_place(request: &PageRequest, after_version: u32) -> Result<Place, Failure> {
    let first = (after_version, Timestamp::MAX, Uuid::max());
    let Some(cursor) = &request.cursor else { return Ok(first) };
    let (version, rest) = cursor.as_str().split_once('-').ok_or(Failure::Cursor)?;
    let (at, id) = time_and_id(rest)?;
    let place = (version.parse().map_err(|_| Failure::Cursor)?, at, id);
    if place_cursor(place) == *cursor { Ok(first.max(place)) } else { Err(Failure::Cursor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> PageRequest {
        PageRequest { limit: 10, cursor: Some(Cursor::new(text)) }
    }

    #[test]
    fn only_our_own_cursors_are_accepted() {
        assert_eq!(before_number(&request("17")).unwrap(), 17);
        for text in ["", "0", "-1", "+1", "01", " 1", "1 ", "9223372036854775808", "x", "1' or 1=1"] {
            assert!(matches!(before_number(&request(text)), Err(Failure::Cursor)), "{text}");
            assert!(matches!(before_id(&request(text)), Err(Failure::Cursor)), "{text}");
            assert!(matches!(before_time(&request(text)), Err(Failure::Cursor)), "{text}");
            assert!(matches!(after_place(&request(text), 0), Err(Failure::Cursor)), "{text}");
        }
        let id = Uuid::from_u128(7);
        assert_eq!(before_id(&request(id_cursor(id).as_str())).unwrap(), id);
        let at = Timestamp::from_microsecond(-5).unwrap();
        assert_eq!(before_time(&request(time_cursor(at, id).as_str())).unwrap(), Some((at, id)));
        let early = time_cursor(Timestamp::MIN, id);
        assert!(matches!(before_time(&request(early.as_str())), Err(Failure::Cursor)), "none of ours");
        let cursor = place_cursor((3, at, id));
        assert_eq!(after_place(&request(cursor.as_str()), 2).unwrap(), (3, at, id));
        assert_eq!(after_place(&request(cursor.as_str()), 3).unwrap(), (3, Timestamp::MAX, Uuid::max()));
        for text in [format!("0{}", cursor.as_str()), format!("-{}", cursor.as_str()), "3-5".to_owned()] {
            assert!(matches!(after_place(&request(&text), 0), Err(Failure::Cursor)), "{text}");
        }
    }

    #[test]
    fn a_page_ends_at_its_limit_or_its_size() {
        let cut = |rows: Vec<usize>, limit| {
            let request = PageRequest { limit, cursor: None };
            let page = page(rows, &request, |row| Cursor::new(row.to_string()), |row| *row);
            (page.items.len(), page.next.map(|next| next.as_str().to_owned()))
        };
        assert_eq!(cut(vec![1, 2, 3], 3), (3, None));
        assert_eq!(cut(vec![1, 2, 3, 4], 3), (3, Some("3".into())));
        assert_eq!(cut(vec![PAGE_BYTES_MAX, 2], 3), (1, Some(PAGE_BYTES_MAX.to_string())));
        assert_eq!(cut(vec![PAGE_BYTES_MAX], 3), (1, None));
        assert_eq!(cut(vec![], 3), (0, None));
    }
}
