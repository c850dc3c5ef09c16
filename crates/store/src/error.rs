//! What can be wrong with a database.

use neo_events_domain::tenant::Schema;

/// Why a step was not done. Nothing of it was stored, but for what [`Self::Unavailable`] says.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such tenant.
    #[error("there is no schema {0}")]
    UnknownSchema(Schema),
    /// A cursor that this store did not make.
    #[error("the cursor is not one of this list")]
    BadCursor,
    /// The caller's own transaction is not on the tenant's database: on another, or of another kind.
    #[error("the transaction is not on the tenant's database")]
    ForeignTransaction,
    /// The database cannot serve now: locked, restarting, unreachable, shutting down. Trying again may help. If the
    /// connection to a server broke before its answer came, and only then, the step may have been done all the same:
    /// publishing again with the same id is safe.
    #[error("the database is not available")]
    Unavailable(#[source] Cause),
    /// A read was ended that took longer than a read may. To ask for less helps more than to ask again.
    #[error("the read took too long")]
    TooSlow(#[source] Cause),
    /// No room is left on the device.
    #[error("the database has no room left on its device")]
    Full(#[source] Cause),
    /// The database may be read but not written.
    #[error("the database cannot be written")]
    ReadOnly(#[source] Cause),
    /// Anything else; a bug or a damaged file.
    #[error("the database failed")]
    Broken(#[source] Cause),
}

/// The driver's own error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl StoreError {
    /// Whether the same call may succeed later without anybody changing it.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TooSlow(_) | Self::Full(_) | Self::ReadOnly(_))
    }
}
