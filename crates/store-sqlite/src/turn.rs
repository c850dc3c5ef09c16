//! One pass over every open file: each has its turn, and one that fails takes no other with it.

use std::{sync::Arc, vec};

use neo_events_store::StoreError;

use crate::tenant_file::TenantFile;

/// The files that are left of a pass, and what became of those before.
pub(crate) struct Turn {
    files: vec::IntoIter<Arc<TenantFile>>,
    answered: bool,
    failed: Option<(Arc<TenantFile>, StoreError)>,
}

impl Turn {
    /// Files that failed a moment ago are left alone.
    pub(crate) fn over(mut files: Vec<Arc<TenantFile>>) -> Self {
        files.retain(|file| !file.is_ailing());
        Self { files: files.into_iter(), answered: false, failed: None }
    }

    pub(crate) fn next(&mut self) -> Option<Arc<TenantFile>> {
        self.files.next()
    }

    /// How many files are still to come.
    pub(crate) fn left(&self) -> usize {
        self.files.len()
    }

    /// A file was not asked: nothing says that it fails.
    pub(crate) fn had_nothing(&mut self) {
        self.answered = true;
    }

    /// What a file answered, if it did.
    pub(crate) fn took<T>(&mut self, file: &Arc<TenantFile>, answer: Result<T, StoreError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.answered = true;
                Some(answer)
            }
            Err(error) => {
                if let Some((file, error)) = self.failed.replace((Arc::clone(file), error)) {
                    report(&file, &error);
                }
                None
            }
        }
    }

    /// Ends the pass: as a failure if it failed everywhere, for then it is the disk, or the one file there is.
    pub(crate) fn end(self) -> Result<(), StoreError> {
        match self.failed {
            Some((_, error)) if !self.answered => Err(error),
            Some((file, error)) => {
                report(&file, &error);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn report(file: &TenantFile, error: &StoreError) {
    file.ail();
    tracing::error!(
        schema = %file.schema,
        error = error as &dyn std::error::Error,
        "a tenant's file failed; the others go on"
    );
}
