//! Kinds of trouble that came to pass, and how often: a simulation in which something never happens proves nothing of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

macro_rules! happenings {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// Something that may happen in a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Happening {
            $($(#[doc = $doc])* $name,)*
        }

        impl Happening {
            /// Everything that may happen.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

happenings! {
    /// A node died.
    Crash = "crash",
    /// A node died at one of its steps, while no time passed.
    CrashAtStep = "crash-at-step",
    /// A node died when a call of its had been done and was not answered yet.
    CrashBeforeAnswer = "crash-before-answer",
    /// A node stopped, and drained in time.
    Drained = "drained",
    /// A node stopped, and was cut off.
    CutOff = "cut-off",
    /// A living node's leases were freed.
    SessionLost = "session-lost",
    /// The wall clock jumped forwards.
    JumpAhead = "jump-ahead",
    /// The wall clock jumped backwards.
    JumpBack = "jump-back",
    /// A node sent while it had no network.
    NetworkCut = "network-cut",
    /// A call failed because its node did not reach the store.
    StoreCut = "store-cut",
    /// A call failed before its effect.
    ErrorBefore = "error-before",
    /// A call failed after its effect.
    ErrorAfter = "error-after",
    /// An event was stored when its publisher had long been told that there was no word.
    LateAppend = "late-append",
    /// A lease was granted when whoever had asked for it had long been told so.
    LateGrant = "late-grant",
    /// An event's deliveries were written when their node had long been told so.
    LateDispatch = "late-dispatch",
    /// An attempt was recorded when its node had long been told so.
    LateRecord = "late-record",
    /// A call failed for want of room.
    Full = "full",
    /// A call failed because nothing can be written.
    ReadOnly = "read-only",
    /// A call failed and would fail again.
    Broken = "broken",
    /// A call failed for the trouble that its tenant was in.
    TenantAiling = "tenant-ailing",
    /// A settlement failed because its row was damaged.
    RowDamaged = "row-damaged",
    /// What could not be settled stayed with its holder without an end.
    KeptUnsettled = "kept-unsettled",
    /// A call took seconds or minutes.
    Stall = "stall",
    /// A wake-up was lost.
    HintLost = "hint-lost",
    /// What a publish leased was lost with its answer.
    HandOverLost = "hand-over-lost",
    /// What a claim leased was lost with its answer.
    ClaimLost = "claim-lost",
    /// A publish leased less than was asked for.
    LeaseLeftOut = "lease-left-out",
    /// A publish left a dispatch to be owed.
    DispatchLeftOut = "dispatch-left-out",
    /// A claim passed over a row.
    RowPassedOver = "row-passed-over",
    /// A claim left out a tenant.
    TenantLeftOut = "tenant-left-out",
    /// A lease that had expired was granted to somebody else.
    ExpiredReclaimed = "expired-reclaimed",
    /// A settlement was refused because its lease was lost.
    LeaseLost = "lease-lost",
    /// An attempt was given up because it could not be recorded.
    AttemptGivenUp = "attempt-given-up",
    /// Somebody cancelled a delivery in flight.
    CancelledInFlight = "cancelled-in-flight",
    /// Somebody retried what was over.
    RetriedByHand = "retried-by-hand",
    /// A request was signed by a secret and by the one before it.
    SignedTwice = "signed-twice",
    /// A receiver asked for no more.
    EndpointGone = "endpoint-gone",
    /// What somebody asked for was not done.
    AskedInVain = "asked-in-vain",
    /// A claim had to be prompt.
    PromptClaim = "prompt-claim",
    /// A node took over from a dead one while nothing else was wrong.
    TakenOver = "taken-over",
}

/// How often each kind of thing happened. Its clones are one.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<BTreeMap<Happening, u64>>>);

impl Tally {
    /// It happened once more.
    pub(crate) fn note(&self, happening: Happening) {
        self.note_all(happening, 1);
    }

    /// It happened so many times more.
    pub(crate) fn note_all(&self, happening: Happening, times: usize) {
        if times > 0 {
            *self.counts().entry(happening).or_default() += times as u64;
        }
    }

    /// What happened so far.
    pub(crate) fn read(&self) -> BTreeMap<Happening, u64> {
        self.counts().clone()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Happening, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
