//! Planted bugs: realistic mistakes, each a deviation of one call of the store or of the transport, or of what a store does
//! by itself. A simulation that does not find them proves nothing.

mod planted;
mod transport;

use std::str::FromStr;

pub(crate) use planted::Planted;
pub(crate) use transport::PlantedTransport;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// A mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)*
        }

        impl Bug {
            /// Every mistake.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// In words.
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*),)*
                }
            }
        }
    };
}

bugs! {
    /// Settling looks for the delivery and not for the lease's token.
    SettleWithoutFence = "settle-without-fence",
    /// Owed dispatches and due endpoints are looked for only after a wake-up.
    WakeUpAsTruth = "wake-up-as-truth",
    /// An attempt is recorded and the delivery's count of attempts stays.
    RetryWithoutIncrement = "retry-without-increment",
    /// A lease is granted without an end.
    LeaseNeverExpires = "lease-never-expires",
    /// An event's dispatch is ended in one transaction and its deliveries are written in the next.
    MarkedBeforeWritten = "marked-before-written",
    /// Claiming reads what is due and writes no lease.
    ClaimWithoutLease = "claim-without-lease",
    /// Giving a delivery back removes its row from the queue.
    ReleaseDropsTheRow = "release-drops-the-row",
    /// A retry is put into the queue without its time.
    RetryAtOnce = "retry-at-once",
    /// A success is recorded as an attempt to be made again.
    SuccessAsRetrying = "success-as-retrying",
    /// A cache of events, keyed without the tenant, hands out another tenant's event.
    ForeignEvent = "foreign-event",
    /// Deliveries are written again when a settlement of dispatches is repeated.
    WrittenTwice = "written-twice",
    /// Claiming does not ask whether the endpoint is active or deleted.
    InactiveClaimed = "inactive-claimed",
    /// A cancellation that waits for the attempt in flight is forgotten when that lands.
    CancellationForgotten = "cancellation-forgotten",
    /// Each claim of dispatches says of the catalogue what the first one said.
    StaleCatalogue = "stale-catalogue",
    /// A large publish is acknowledged before its last event is stored.
    AcknowledgedBeforeStored = "acknowledged-before-stored",
    /// An event is dispatched as it is published with whatever catalogue its node knew.
    CatalogueNotCompared = "catalogue-not-compared",
    /// Leases that were granted with an event do not reach the node that took them.
    HandOverForgotten = "hand-over-forgotten",
    /// A claim of deliveries ignores the quota.
    QuotaIgnored = "quota-ignored",
    /// Tending frees the leases of deliveries that have been in flight for a second.
    ImpatientTending = "impatient-tending",
    /// A settlement is refused when its lease is over, though nobody has claimed the work since.
    ExpiryAsLoss = "expiry-as-loss",
    /// The HTTP client repeats a request by itself when the connection breaks.
    HiddenRetry = "hidden-retry",
    /// A timeout while reading the answer counts as an answer of 200.
    TimeoutAsSuccess = "timeout-as-success",
    /// A connection that breaks counts as a target that must not be connected to.
    ResetAsRefusal = "reset-as-refusal",
    /// The HTTP client panics at an answer of 410.
    ClientPanics = "client-panics",
    /// A cache of secrets does not hear that one was rotated.
    StaleSecret = "stale-secret",
    /// A cache of targets does not hear that one was moved.
    StaleTarget = "stale-target",
    /// A claim of deliveries takes it for granted that each endpoint has an answer, and panics if one is gone.
    ClaimPanics = "claim-panics",
    /// The HTTP client loses the header `Retry-After`.
    RetryAfterLost = "retry-after-lost",
    /// The HTTP client cuts long bodies.
    BodyCut = "body-cut",
    /// The HTTP client gives up before the timeout, and lets the request go on by itself.
    RequestLeaked = "request-leaked",
    /// Tending makes deliveries due again that have failed for good.
    FailedBroughtBack = "failed-brought-back",
    /// Tending cancels deliveries that wait for a second attempt.
    CancelledUnasked = "cancelled-unasked",
    /// Giving a delivery back does nothing.
    ReleaseForgotten = "release-forgotten",
    /// That a node is dead is noticed ten seconds late.
    LateBurial = "late-burial",
    /// Who is due is looked for every ten seconds only.
    SlowSweep = "slow-sweep",
    /// An endpoint that was changed since an event was published gets no delivery of it.
    ChangedForgotten = "changed-forgotten",
    /// A retry is put into the queue three seconds after its time.
    RetryLate = "retry-late",
    /// A claim says that one attempt less is left than there is.
    GivesUpEarly = "gives-up-early",
}

/// No such mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownBug;

impl FromStr for Bug {
    type Err = UnknownBug;
    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        Self::ALL.iter().copied().find(|bug| bug.as_str() == name).ok_or(UnknownBug)
    }
}
