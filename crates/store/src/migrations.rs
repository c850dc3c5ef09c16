//! How far a database's migrations are, as every backend tells it.

/// What has been applied, and what is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// A tenant's schema, or `database` for what a database server has once.
    pub scope: String,
    /// Migrations applied.
    pub applied: i32,
    /// Migrations that this program knows.
    pub known: i32,
}

impl MigrationStatus {
    /// Whether some are still to be applied.
    pub const fn is_behind(&self) -> bool {
        self.applied < self.known
    }
}

/// A scope that was brought up to date, one of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationStep<'a> {
    /// As in [`MigrationStatus`].
    pub scope: &'a str,
    /// How many are done, this one included.
    pub done: usize,
    /// How many there were to do.
    pub total: usize,
}
