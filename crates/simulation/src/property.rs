//! What must hold, by name, and what it looks like when it does not.

use std::{fmt, time::Duration};

macro_rules! properties {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// A property of the system.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Property {
            $($(#[doc = $doc])* $name,)*
        }

        impl Property {
            /// Every property.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name, as a sentence without spaces.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

properties! {
    /// What was acknowledged is stored, and an event whose dispatch is over has a delivery for each endpoint that
    /// wanted it all the time from its publication on.
    NothingIsLost = "nothing_accepted_is_lost",
    /// No delivery to an endpoint that did not want the event at any time since its publication.
    NothingUnwanted = "nothing_unwanted_is_delivered",
    /// One delivery per event, endpoint and trigger.
    OneDelivery = "one_delivery_per_event_endpoint_and_trigger",
    /// No two live leases of one row.
    ExclusiveLeases = "leases_are_exclusive",
    /// An attempt counts only under the lease that holds its delivery when it is recorded.
    OnlyTheHolderSettles = "only_the_holder_settles",
    /// Attempts are numbered 1, 2, 3 …, claimed and recorded.
    AttemptsCountByOne = "attempt_numbers_increase_by_one",
    /// A delivery has its endpoint's policy, and is given up after as many attempts as that and retries by hand allow.
    AttemptsEnd = "attempts_end_with_the_policy",
    /// No receiver sees another tenant's event, no row names one.
    TenantsApart = "no_row_crosses_tenants",
    /// The body is the event's, byte for byte.
    BodiesArriveWhole = "bodies_arrive_whole",
    /// A request goes to its endpoint's URL as it is, or was at some time since its attempt was claimed.
    TargetsAreCurrent = "requests_go_where_their_endpoint_is",
    /// A request is signed by the secrets that were its endpoint's at some time since its attempt was claimed, and are valid as
    /// it leaves; and it says when it leaves.
    RequestsAreSigned = "every_request_is_signed_with_a_valid_secret",
    /// The verdict's time is the policy's: not before the backoff or what the receiver asked for, not after a tenth more.
    DelaysFollowThePolicy = "delays_follow_the_policy",
    /// No attempt before it is due.
    RetriesWait = "no_retry_before_its_time",
    /// When nothing is wrong, an attempt is claimed within a second after it is due.
    DueWorkIsPrompt = "due_work_is_claimed_within_a_second",
    /// When a node dies and nothing else is wrong, what it left is done within two seconds after its leases are freed.
    WorkIsTakenOver = "work_of_the_dead_is_taken_over",
    /// What was over is over, unless somebody retried it by hand; a success always.
    OverStaysOver = "what_is_over_stays_over",
    /// What the receiver did decides what is recorded: a success if and only if it answered 2xx, a failure for good if
    /// and only if it answered what no further attempt would change, or no attempt was left.
    OutcomesAreKept = "what_is_recorded_is_what_happened",
    /// A delivery that somebody cancelled is not tried again, and no other is cancelled.
    CancellationsHold = "cancellations_hold",
    /// An attempt that reached a receiver is recorded, or its node died or lost its lease, or the store would not take it for
    /// as long as that lasted.
    AttemptsAreRecorded = "attempts_are_recorded",
    /// Each request arrives at most once.
    RequestsArriveOnce = "requests_arrive_once",
    /// No more is claimed of an endpoint than was asked for.
    ClaimsFitQuotas = "claims_fit_their_quotas",
    /// Deliveries in flight to an endpoint stay within the bound that its answers allow.
    InFlightIsBounded = "in_flight_is_bounded",
    /// Nothing is claimed for an endpoint that is inactive or deleted.
    InactiveRests = "inactive_endpoints_get_nothing",
    /// No pass and no task panics.
    NothingPanics = "nothing_panics",
    /// A node that has drained leaves no attempt unrecorded and nothing leased.
    DrainedStopsLeaveNothing = "a_drained_stop_leaves_nothing",
    /// Once nothing is wrong any more, everything settles, and shutting down drains.
    EverythingSettles = "everything_settles",
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub property: Property,
    /// What was seen.
    pub what: String,
    /// When, since the beginning.
    pub at: Duration,
    /// In which step; the last one and more while the world heals.
    pub step: u32,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { property, what, at, step } = self;
        write!(f, "{property}: {what} (step {step}, after {:.3} s)", at.as_secs_f64())
    }
}
