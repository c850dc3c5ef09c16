//! Makes a failing run smaller: fewer steps, fewer kinds of trouble, as long as the same property fails.

use crate::{
    options::{Options, Trouble},
    property::{Property, Violation},
    run::run,
};

/// The smallest run found that violates the property of this one, and how.
pub fn shrink(options: &Options, violation: &Violation) -> (Options, Violation) {
    let mut smallest = (options.clone(), violation.clone());
    loop {
        let before = smallest.0.clone();
        smallest = with_fewer_steps(smallest);
        smallest = with_less_trouble(smallest);
        if smallest.0 == before {
            return smallest;
        }
    }
}

fn with_less_trouble(mut smallest: (Options, Violation)) -> (Options, Violation) {
    for trouble in Trouble::ALL {
        let mut options = smallest.0.clone();
        if options.without.insert(*trouble)
            && let Some(violation) = fails(&options, smallest.1.property)
        {
            smallest = (options, violation);
        }
    }
    smallest
}

/// Up to the step in which it failed, then by ever smaller cuts from the end.
fn with_fewer_steps(mut smallest: (Options, Violation)) -> (Options, Violation) {
    let mut cut = smallest.0.steps.div_ceil(2);
    while cut > 0 {
        let steps = smallest.0.steps.saturating_sub(cut).min(smallest.1.step.saturating_add(1));
        let options = Options { steps, ..smallest.0.clone() };
        match fails(&options, smallest.1.property) {
            Some(violation) if steps < smallest.0.steps => smallest = (options, violation),
            _ => cut /= 2,
        }
    }
    smallest
}

fn fails(options: &Options, property: Property) -> Option<Violation> {
    run(options).violation.filter(|violation| violation.property == property)
}
