//! One life of a node: from its start to its crash or its end. What it does after its death has no effect.
//!
//! It goes in steps: into each call of the store, to its effect and back to its answer, and with each request out, to its
//! receiver and back. Between two of them nobody sees anything of a node. So one that dies at any of its steps, whichever of
//! its tasks takes it, dies in every way in which it could die while one of its tasks runs.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::memory::Holder;

/// Nobody has said when it ends.
const ENDLESS: u64 = u64::MAX;

/// Which node, and which of its lives.
#[derive(Clone)]
pub(crate) struct Life {
    /// The node.
    pub(crate) node: usize,
    /// The life, as the store knows it.
    pub(crate) holder: Holder,
    steps_left: Arc<AtomicU64>,
}

impl Life {
    /// A new life.
    pub(crate) fn new(node: usize, holder: Holder) -> Self {
        Self { node, holder, steps_left: Arc::new(AtomicU64::new(ENDLESS)) }
    }

    /// Whatever it would still do does not happen.
    pub(crate) fn end(&self) {
        self.end_after(0);
    }

    /// It takes so many steps more.
    pub(crate) fn end_after(&self, steps: u64) {
        self.steps_left.store(steps, Ordering::Relaxed);
    }

    /// If it is alive, it stays so.
    pub(crate) fn spare(&self) {
        if !self.is_over() {
            self.end_after(ENDLESS);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.steps_left.load(Ordering::Relaxed) == 0
    }

    /// A step: returns if it is alive; otherwise never.
    pub(crate) async fn go_on(&self) {
        self.go_on_or(|| {}).await;
    }

    /// The same, and says so if this was its last one.
    pub(crate) async fn go_on_or(&self, ends_here: impl FnOnce()) {
        let left = self.steps_left.load(Ordering::Relaxed);
        if left == ENDLESS {
            return;
        }
        self.end_after(left.saturating_sub(1));
        if left == 1 {
            ends_here();
        }
        if left <= 1 {
            pending::<()>().await;
        }
    }
}
