//! Everything in the domain that reads what strangers write, under thousands of damaged inputs (`campaign`): it refuses
//! precisely or accepts what the rule says, and never panics.

mod campaign;
mod events;
mod filters;
mod names;
mod requests;
mod retries;
