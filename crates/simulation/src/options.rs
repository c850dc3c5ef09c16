//! What a run is made of: a seed, how long it goes, what may go wrong, and which bug is planted.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::bugs::Bug;

/// Steps of a run unless somebody says otherwise.
pub const STEPS_DEFAULT: u32 = 60;

/// A run, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Steps before the world heals.
    pub steps: u32,
    /// What does not go wrong in it.
    pub without: BTreeSet<Trouble>,
    /// What is wrong with the code.
    pub bug: Option<Bug>,
    /// Whether to keep a readable log.
    pub is_logged: bool,
}

impl Options {
    /// Everything may go wrong but the code.
    pub const fn of_seed(seed: u64) -> Self {
        Self { seed, steps: STEPS_DEFAULT, without: BTreeSet::new(), bug: None, is_logged: false }
    }

    pub(crate) fn has(&self, trouble: Trouble) -> bool {
        !self.without.contains(&trouble)
    }
}

impl fmt::Display for Options {
    /// The command line that makes the same run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--seed {} --steps {}", self.seed, self.steps)?;
        if !self.without.is_empty() {
            let names: Vec<_> = self.without.iter().map(|trouble| trouble.as_str()).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        self.bug.map_or(Ok(()), |bug| write!(f, " --bug {}", bug.as_str()))
    }
}

macro_rules! troubles {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// A kind of trouble, which can be left out.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Trouble {
            $($(#[doc = $doc])* $name,)*
        }

        impl Trouble {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

troubles! {
    /// Nodes die in the middle of whatever they do, and come back.
    Crash = "crash",
    /// Nodes are shut down, in time or cut off.
    Shutdown = "shutdown",
    /// The wall clock jumps.
    Clock = "clock",
    /// Calls of the store fail, before or after their effect.
    Errors = "errors",
    /// Calls of the store fail with no word, and have their effect seconds later.
    Late = "late",
    /// A node does not reach the store for a while.
    Cuts = "cuts",
    /// Calls of the store take long.
    Delays = "delays",
    /// Wake-ups are lost.
    Hints = "hints",
    /// A tenant's tables are locked, full, read-only or damaged for a while, or one row is until somebody mends it.
    Damage = "damage",
    /// The store does less than it could: of what comes with an event it leases nothing, or leaves its dispatch to be owed;
    /// claims pass over rows and tenants.
    Partial = "partial",
    /// Leases of living nodes are taken for those of dead ones.
    Sessions = "sessions",
    /// Receivers fail, hang, lie and break connections; nodes lose their network.
    Network = "network",
    /// Endpoints and subscriptions change.
    Configuration = "configuration",
    /// People cancel and retry deliveries.
    People = "people",
}

/// No such kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTrouble;

impl FromStr for Trouble {
    type Err = UnknownTrouble;
    fn from_str(name: &str) -> Result<Self, UnknownTrouble> {
        Self::ALL.iter().copied().find(|trouble| trouble.as_str() == name).ok_or(UnknownTrouble)
    }
}
