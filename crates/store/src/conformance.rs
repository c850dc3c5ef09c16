//! The one suite that every backend passes: named scenarios, each over a fresh store, each stating a property.
//!
//! A backend's tests say `neo_events_store::conformance_tests!(make_store);`, where `make_store` is an async function
//! that answers a store and whatever must live as long as it: each scenario becomes a test. [`run_all`] is the same
//! in one call. Time is an argument everywhere, so that nothing here waits; a scenario that fails panics.

mod catalogue;
mod deliver;
mod direct;
mod dispatch;
mod events;
mod pages;
mod random;
mod repair;
mod tenants;
mod world;

pub use catalogue::*;
pub use deliver::*;
pub use direct::*;
pub use dispatch::*;
pub use events::*;
pub use pages::*;
pub use repair::*;
pub use tenants::*;

/// Hands the names of all scenarios to a macro, after the arguments given.
#[doc(hidden)]
#[macro_export]
macro_rules! for_each_scenario {
    ($callback:path, $make:expr) => {
        $callback! { $make;
            payload_bytes_survive
            every_field_reads_back
            publishing_twice_is_one_event
            versions_are_guarded
            aggregates_belong_to_the_contexts_of_their_events
            created_at_never_decreases
            a_batch_is_judged_event_by_event
            disabled_types_refuse_events
            hostile_text_is_only_text
            events_are_filtered_and_counted
            event_pages_have_no_gaps_or_repeats
            aggregates_are_read_in_pages
            foreign_cursors_are_refused
            processed_at_is_known_across_gaps
            marking_processed_ends_what_is_owed
            unknown_schemas_are_refused
            event_types_are_kept
            seeds_come_once
            endpoints_read_back
            stale_updates_are_refused
            endpoints_are_filtered
            subscriptions_are_kept
            deleting_an_endpoint_takes_its_subscriptions
            usage_never_goes_back_and_is_no_change
            catalogue_changes_are_complete
            dispatch_claims_are_exclusive
            expired_dispatches_are_claimed_again
            one_delivery_per_event_endpoint_and_trigger
            directed_events_owe_no_dispatch
            tests_do_not_wait_for_the_backlog
            deliveries_come_with_their_event
            leases_that_come_with_an_event_end_like_others
            events_that_nobody_wants_are_processed_as_they_come
            an_old_catalogue_dispatches_nothing
            what_is_not_stored_is_not_dispatched
            an_old_catalogue_dispatches_none_of_several
            a_disabled_type_keeps_nobody_else
            an_id_that_is_there_keeps_nobody_else
            leases_reach_their_holder_though_the_publisher_is_gone
            claims_respect_quotas_and_due_order
            claims_share_events_between_endpoints
            inactive_endpoints_hold_their_deliveries
            every_verdict_is_recorded
            attempts_read_back
            late_settlements_are_lost
            released_work_is_claimed_again
            gone_disables_the_endpoint
            gone_spares_what_was_moved_or_activated_since
            nothing_waits_longer_than_any_policy_says
            what_was_never_attempted_waits_for_no_clock
            due_endpoints_are_those_with_open_work
            waiting_deliveries_are_cancelled_at_once
            deliveries_in_flight_are_cancelled_when_they_land
            cancellations_whose_attempt_never_ended_are_finished
            retry_now_in_every_state
            deleting_an_endpoint_cancels_its_deliveries
            deliveries_are_filtered_in_pages
            a_delivery_tells_how_its_endpoint_stands
            attempts_are_read_in_pages
            pages_of_large_attempts_end_early
            pages_of_deliveries_with_many_subscriptions_end_early
            pages_of_endpoints_with_many_headers_end_early
            statistics_count_what_happened
            tenants_are_made_once
            one_of_many_makers_makes_the_tenant
            tenants_are_listed_in_pages
            no_call_reaches_another_tenant
            the_same_ids_in_two_tenants_are_two_rows
            tenants_are_served_side_by_side
            every_call_refuses_unknown_schemas
            api_keys_read_back
            api_keys_are_found_by_their_digest_alone
            api_keys_are_listed_by_tenant
            key_usage_never_goes_back
            hostile_names_are_only_names
            one_master_key_is_noted
        }
    };
}

/// One test per scenario: `conformance_tests!(make_store)`, with an `async fn make_store() -> (impl Store, Guard)`.
/// Needs `tokio` with `macros` and `rt` in the calling crate.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::for_each_scenario! { $crate::conformance_test_functions, $make }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_test_functions {
    ($make:expr; $($scenario:ident)*) => {
        $(
            #[tokio::test]
            async fn $scenario() {
                let (store, _guard) = $make().await;
                $crate::conformance::$scenario(&store).await;
            }
        )*
    };
}

/// Runs every scenario, each over a store of its own; the second value lives as long as the store. Panics at the
/// first property that does not hold.
pub async fn run_all<S: crate::Store, Guard>(make: impl AsyncFn() -> (S, Guard)) {
    macro_rules! run {
        ($make:expr; $($scenario:ident)*) => {
            $(
                let (store, _guard) = $make().await;
                $scenario(&store).await;
            )*
        };
    }
    crate::for_each_scenario! { run, make }
}
