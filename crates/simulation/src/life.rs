//! One life of a node: from its start to its crash or its end. What it does after its death has no effect.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::memory::Holder;

/// Which node, and which of its lives.
#[derive(Clone)]
pub(crate) struct Life {
    /// The node.
    pub(crate) node: usize,
    /// The life, as the store knows it.
    pub(crate) holder: Holder,
    is_over: Arc<AtomicBool>,
}

impl Life {
    /// A new life.
    pub(crate) fn new(node: usize, holder: Holder) -> Self {
        Self { node, holder, is_over: Arc::default() }
    }

    /// Whatever it would still do does not happen.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Returns if it is alive; otherwise never.
    pub(crate) async fn go_on(&self) {
        if self.is_over.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }
}
