//! Between columns and domain types. What was written through these reads back equal; what does not read back was
//! not written by us, and is an error of the file.

use std::{error::Error, str::FromStr};

use neo_events_domain::{Timestamp, Uuid, id::Id};
use rusqlite::{
    Row, ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, Type, ValueRef},
};

use crate::failure::Failure;

/// A time as a column holds it: microseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Micros(pub(crate) i64);

impl From<Timestamp> for Micros {
    fn from(at: Timestamp) -> Self {
        Self(at.as_microsecond())
    }
}

impl Micros {
    /// The time; microseconds outside the calendar are cut to its ends.
    pub(crate) fn timestamp(self) -> Timestamp {
        let end = if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::from_microsecond(self.0).unwrap_or(end)
    }
}

impl ToSql for Micros {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Micros {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let micros = value.as_i64()?;
        Timestamp::from_microsecond(micros).map_err(|_| FromSqlError::OutOfRange(micros))?;
        Ok(Self(micros))
    }
}

/// A UUID as a column holds it.
pub(crate) fn key<Kind>(id: Id<Kind>) -> [u8; 16] {
    id.uuid().into_bytes()
}

/// A UUID that may be absent.
pub(crate) fn optional_key(uuid: Option<Uuid>) -> Option<[u8; 16]> {
    uuid.map(Uuid::into_bytes)
}

/// A time that may be absent.
pub(crate) fn optional_micros(at: Option<Timestamp>) -> Option<Micros> {
    at.map(Micros::from)
}

/// Headers as a column holds them: `[[name, value], …]`.
pub(crate) fn headers_json(headers: &[(String, String)]) -> Result<String, Failure> {
    Ok(serde_json::to_string(headers)?)
}

/// Reads a row's columns from left to right, in the order in which the statement selects them.
pub(crate) struct Columns<'r> {
    row: &'r Row<'r>,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(crate) fn of(row: &'r Row<'r>) -> Self {
        Self { row, next: 0 }
    }

    pub(crate) fn take<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.next += 1;
        self.row.get(self.next - 1)
    }

    pub(crate) fn id<Kind>(&mut self) -> rusqlite::Result<Id<Kind>> {
        self.uuid().map(Id::from_uuid)
    }

    pub(crate) fn optional_id<Kind>(&mut self) -> rusqlite::Result<Option<Id<Kind>>> {
        Ok(self.optional_uuid()?.map(Id::from_uuid))
    }

    pub(crate) fn uuid(&mut self) -> rusqlite::Result<Uuid> {
        self.take().map(Uuid::from_bytes)
    }

    pub(crate) fn optional_uuid(&mut self) -> rusqlite::Result<Option<Uuid>> {
        Ok(self.take::<Option<[u8; 16]>>()?.map(Uuid::from_bytes))
    }

    pub(crate) fn time(&mut self) -> rusqlite::Result<Timestamp> {
        Ok(self.take::<Micros>()?.timestamp())
    }

    pub(crate) fn optional_time(&mut self) -> rusqlite::Result<Option<Timestamp>> {
        Ok(self.take::<Option<Micros>>()?.map(Micros::timestamp))
    }

    pub(crate) fn parsed<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self) -> rusqlite::Result<T> {
        self.text(str::parse)
    }

    pub(crate) fn headers(&mut self) -> rusqlite::Result<Vec<(String, String)>> {
        self.text(serde_json::from_str)
    }

    /// Text, through a function that may refuse it.
    pub(crate) fn text<T, E: Error + Send + Sync + 'static>(
        &mut self,
        read: impl FnOnce(&'r str) -> Result<T, E>,
    ) -> rusqlite::Result<T> {
        let index = self.next;
        self.next += 1;
        let text = self.row.get_ref(index)?.as_str()?;
        read(text).map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error.into()))
    }
}
