//! Between columns and domain types. What was written through these reads back equal; what does not read back was
//! not written by us, and is an error of the database.

use std::{error::Error, str::FromStr};

use neo_events_domain::{
    Timestamp, Uuid,
    id::{Id, SubscriptionId},
};
use tokio_postgres::{Row, types::FromSql};

use crate::failure::Failure;

/// Headers as a column holds them: `[[name, value], …]`.
pub(crate) fn headers_json(headers: &[(String, String)]) -> Result<String, Failure> {
    serde_json::to_string(headers).map_err(|error| Failure::Stored(error.into()))
}

/// Unsigned numbers of the domain, all of which are small, as the database's integers.
pub(crate) fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Counts and versions as the database's large integers.
pub(crate) fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An array as the database reads it: arrays of arrays must be rectangular, and these are not.
pub(crate) fn uuid_array(ids: &[SubscriptionId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// Reads a row's columns from left to right, in the order in which the statement selects them.
pub(crate) struct Columns<'r> {
    row: &'r Row,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(crate) const fn of(row: &'r Row) -> Self {
        Self { row, next: 0 }
    }

    /// The columns from one on.
    pub(crate) const fn from(row: &'r Row, first: usize) -> Self {
        Self { row, next: first }
    }

    pub(crate) fn take<T: FromSql<'r>>(&mut self) -> Result<T, Failure> {
        self.next += 1;
        // What was stored cannot be read, whoever stored it: an operator's `infinity`, or a damaged page.
        self.row.try_get(self.next - 1).map_err(|error| Failure::Stored(error.into()))
    }

    /// A small number that is never negative.
    pub(crate) fn number(&mut self) -> Result<u32, Failure> {
        u32::try_from(self.take::<i32>()?).map_err(|error| Failure::Stored(error.into()))
    }

    pub(crate) fn id<Kind>(&mut self) -> Result<Id<Kind>, Failure> {
        self.uuid().map(Id::from_uuid)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, Failure> {
        self.take()
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, Failure> {
        self.take()
    }

    pub(crate) fn parsed<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self) -> Result<T, Failure> {
        self.text(str::parse)
    }

    pub(crate) fn headers(&mut self) -> Result<Vec<(String, String)>, Failure> {
        self.text(serde_json::from_str)
    }

    /// Text, through a function that may refuse it.
    pub(crate) fn text<T, E: Error + Send + Sync + 'static>(
        &mut self,
        read: impl FnOnce(&'r str) -> Result<T, E>,
    ) -> Result<T, Failure> {
        read(self.take()?).map_err(|error| Failure::Stored(error.into()))
    }
}
