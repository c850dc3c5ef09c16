//! What a check found.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::cli::output::printable;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// It works, and may not for long.
    Warning,
    /// It does not work, or loses what was acknowledged.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) status: Status,
    /// What was seen.
    pub(super) detail: String,
    /// What to do about it.
    pub(super) advice: Option<&'static str>,
}

/// Everything that was looked at.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// As it should be.
    pub(super) fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Ok, &detail.into(), None);
    }

    /// It works, and may not for long.
    pub(super) fn warning(&mut self, check: &'static str, detail: impl Into<String>, advice: &'static str) {
        self.add(check, Status::Warning, &detail.into(), Some(advice));
    }

    /// It does not work, or loses what was acknowledged.
    pub(super) fn problem(&mut self, check: &'static str, detail: impl Into<String>, advice: &'static str) {
        self.add(check, Status::Problem, &detail.into(), Some(advice));
    }

    /// In the order in which they were found.
    pub(super) fn all(&self) -> &[Finding] {
        &self.0
    }

    /// How many are so bad.
    pub(super) fn count(&self, status: Status) -> usize {
        self.0.iter().filter(|finding| finding.status == status).count()
    }

    fn add(&mut self, check: &'static str, status: Status, detail: &str, advice: Option<&'static str>) {
        self.0.push(Finding { check, status, detail: printable(detail), advice });
    }
}

impl Serialize for Findings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Findings", 3)?;
        object.serialize_field("findings", &self.0)?;
        object.serialize_field("problems", &self.count(Status::Problem))?;
        object.serialize_field("warnings", &self.count(Status::Warning))?;
        object.end()
    }
}
