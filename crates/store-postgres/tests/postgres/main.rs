//! What only this backend can get wrong: plans, races between nodes, migrations, lost connections, open transactions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ailing_tenants;
mod catalogue_races;
mod clock_steps;
mod closing;
mod durability;
mod hanging_servers;
mod hostile_text;
mod invariants;
mod late_commits;
mod locked_tenants;
mod long_transactions;
mod lost_connections;
mod lost_leases;
mod migrations;
mod plans;
mod platforms;
mod publish_races;
mod random;
mod scene;
mod sessions;
mod settling;
mod several_hosts;
mod slow_reads;
mod unheard;
mod work_races;
