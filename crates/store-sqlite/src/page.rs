//! Lists: keys, mostly from right to left, cut into pages, and spans of time turned into spans of keys.

use neo_events_store::{Cursor, PAGE_BYTES_MAX, Page, PageRequest, TimeRange};
use rusqlite::{CachedStatement, Connection, ToSql};

use crate::{columns::Micros, failure::Failure};

/// Keys `from` ≤ key < `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: i64,
    pub(crate) before: i64,
}

impl Span {
    pub(crate) const ALL: Self = Self { from: 0, before: i64::MAX };

    /// Where a page goes on: a cursor is the key of the last item before it, in decimal.
    pub(crate) fn continued(self, cursor: Option<&Cursor>) -> Result<Self, Failure> {
        let Some(cursor) = cursor else { return Ok(self) };
        let key = cursor.as_str().parse::<i64>().ok().filter(|key| *key > 0);
        let key = key.filter(|key| key.to_string() == cursor.as_str()).ok_or(Failure::Cursor)?;
        Ok(Self { before: self.before.min(key), ..self })
    }
}

/// A value for a named parameter; statements of one family share names, and each has those it needs.
pub(crate) type Named<'a> = (&'a str, &'a dyn ToSql);

/// Binds those parameters that the statement has.
pub(crate) fn bind(statement: &mut CachedStatement<'_>, parameters: &[Named<'_>]) -> Result<(), Failure> {
    for (name, value) in parameters {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    Ok(())
}

/// The keys that a statement selects.
pub(crate) fn keys(conn: &Connection, sql: &str, parameters: &[Named<'_>]) -> Result<Vec<i64>, Failure> {
    let mut statement = conn.prepare_cached(sql)?;
    bind(&mut statement, parameters)?;
    let mut rows = statement.raw_query();
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(row.get(0)?);
    }
    Ok(keys)
}

/// How many rows to ask for, so as to know whether more follow.
pub(crate) fn limit_of(page: &PageRequest) -> i64 {
    i64::from(page.limit.max(1)) + 1
}

/// Loads the page that begins a list of keys; those that are gone are left out.
///
/// It ends early once its items are as large as [`PAGE_BYTES_MAX`] by `size`, so that a page of the largest events does
/// not fill the memory.
pub(crate) fn page<T>(
    keys: &[i64],
    request: &PageRequest,
    load: impl FnMut(i64) -> Result<Option<T>, Failure>,
    size: impl Fn(&T) -> usize,
) -> Result<Page<T>, Failure> {
    page_by(keys, request, load, size, |key| Cursor::new(key.to_string()))
}

/// The same for keys of another kind, each of which has its cursor.
pub(crate) fn page_by<K: Copy, T>(
    keys: &[K],
    request: &PageRequest,
    mut load: impl FnMut(K) -> Result<Option<T>, Failure>,
    size: impl Fn(&T) -> usize,
    cursor: impl Fn(K) -> Cursor,
) -> Result<Page<T>, Failure> {
    let limit = usize::try_from(request.limit.max(1)).unwrap_or(usize::MAX);
    let (mut items, mut bytes) = (Vec::new(), 0);
    for (index, key) in keys.iter().enumerate() {
        if index > 0 && (index == limit || bytes >= PAGE_BYTES_MAX) {
            let next = Some(cursor(keys[index - 1]));
            return Ok(Page { items, next });
        }
        if let Some(item) = load(*key)? {
            bytes += size(&item);
            items.push(item);
        }
    }
    Ok(Page { items, next: None })
}

/// For rows in which everything has a narrow limit: a thousand of them are no burden.
pub(crate) const fn small<T>(_: &T) -> usize {
    0
}

/// The statements that bisect a table whose `created_at` never decreases along its key.
pub(crate) struct Timeline {
    /// Smallest and greatest key.
    pub(crate) bounds: &'static str,
    /// The first key at or after one, with its time.
    pub(crate) created_at: &'static str,
}

impl Timeline {
    /// The keys of a span of time.
    pub(crate) fn span(&self, conn: &Connection, range: TimeRange) -> Result<Span, Failure> {
        let mut span = Span::ALL;
        if let Some(from) = range.from {
            span.from = self.first_since(conn, from.into())?;
        }
        if let Some(to) = range.to {
            span.before = self.first_since(conn, to.into())?;
        }
        Ok(span)
    }

    /// The first key whose row is not older than this; the one after the last if all are.
    fn first_since(&self, conn: &Connection, at: Micros) -> Result<i64, Failure> {
        let bounds = conn
            .prepare_cached(self.bounds)?
            .query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.zip(row.get::<_, Option<i64>>(1)?)))?;
        let Some((mut low, high)) = bounds else { return Ok(0) };
        let mut high = high + 1;
        let mut statement = conn.prepare_cached(self.created_at)?;
        while low < high {
            let middle = low + (high - low) / 2;
            let (key, created_at): (i64, Micros) =
                statement.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if created_at >= at {
                high = middle;
            } else {
                low = key + 1;
            }
        }
        Ok(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neo_events_domain::Timestamp;

    #[test]
    fn bisecting_agrees_with_looking_at_every_row() {
        const TIMELINE: Timeline = Timeline {
            bounds: "select (select min(seq) from events), (select max(seq) from events)",
            created_at: "select seq, created_at from events where seq >= ?1 order by seq limit 1",
        };
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("create table events (seq integer primary key, created_at integer)").unwrap();
        let at = |micros| Timestamp::from_microsecond(micros).unwrap();
        let range = |from| TimeRange { from: Some(at(from)), to: None };
        assert_eq!(TIMELINE.span(&conn, range(5)).unwrap(), Span { from: 0, before: i64::MAX });
        let rows = [(3, 10), (4, 10), (9, 11), (10, 20), (1000, 20), (1001, 30)];
        for row in rows {
            conn.execute("insert into events values (?1, ?2)", row).unwrap();
        }
        for from in 0..40 {
            let span = TIMELINE.span(&conn, range(from)).unwrap();
            let found = rows.iter().filter(|(seq, _)| *seq >= span.from).count();
            assert_eq!(found, rows.iter().filter(|(_, created)| *created >= from).count(), "{from}");
        }
    }

    #[test]
    fn only_our_own_cursors_are_accepted() {
        let continued = |text: &str| Span::ALL.continued(Some(&Cursor::new(text)));
        assert_eq!(continued("17").unwrap().before, 17);
        for text in ["", "0", "-1", "+1", "01", " 1", "1 ", "9223372036854775808", "x", "1' or 1=1"] {
            assert!(matches!(continued(text), Err(Failure::Cursor)), "{text}");
        }
    }
}
