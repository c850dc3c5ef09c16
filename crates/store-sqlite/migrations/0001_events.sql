-- The event log, and what is kept beside it.
--
-- Times are microseconds since 1970. Ids are the 16 bytes of a UUID. Foreign keys are not declared: every reference is
-- resolved in the statement that writes it, and checking it again would cost the hot path a look-up per row.

-- What the file knows of itself. `openings` goes into every fencing token, so that a lease of an earlier opening can
-- never be taken for one of this.
create table store_state (
    only integer primary key check (only = 1),
    openings integer not null,
    event_types_seeded integer not null check (event_types_seeded in (0, 1))
) strict;

insert into store_state (only, openings, event_types_seeded) values (1, 0, 0);

-- `seq` is the order of commits and the key that the rest of the file uses: eight bytes, dense, always appended at the
-- right edge. It is given, not drawn from a sequence table, so the newest row must never be removed alone.
-- `created_at` never decreases along `seq`; a span of time is therefore found by bisecting the primary key, and needs
-- no index. The large columns come last: reading the others does not touch a row's overflow pages.
create table events (
    seq integer primary key,
    id blob not null unique check (length(id) = 16),
    event_type text not null,
    event_name text,
    aggregate_id blob not null check (length(aggregate_id) = 16),
    aggregate_type text not null,
    aggregate_version integer not null check (aggregate_version between 1 and 999999),
    correlation_id blob check (length(correlation_id) = 16),
    causation_id blob check (length(causation_id) = 16),
    triggered_by_user_id blob check (length(triggered_by_user_id) = 16),
    context_id blob check (length(context_id) = 16),
    occurred_at integer not null,
    created_at integer not null,
    -- Text as it was sent: its bytes survive, which no JSON type would promise.
    event_metadata text not null,
    event_data text not null
) strict;

create index events_by_aggregate on events (aggregate_id, aggregate_type, aggregate_version);
create index events_by_type on events (event_type);
create index events_by_correlation on events (correlation_id) where correlation_id is not null;
create index events_by_context on events (context_id) where context_id is not null;

-- One row per event whose dispatch is owed, written with the event and removed when the dispatch is settled: cheaper
-- than updating the event, and the pass that dispatches reads nothing but this.
create table owed_dispatches (
    event_seq integer primary key
) strict;

-- When dispatches were settled: one row per run of consecutive events settled in one transaction. Runs do not overlap.
-- An event's `processed_at` is that of the newest run that begins at or before it, if the run reaches it.
create table dispatch_runs (
    first_seq integer primary key,
    last_seq integer not null check (last_seq >= first_seq),
    processed_at integer not null
) strict;

-- The newest version that a guarded publish gave an aggregate. Unguarded ones do not write here, so the newest version
-- is the greater of this and the newest in `events`; it outlives the events themselves.
create table stream_heads (
    aggregate_id blob not null,
    aggregate_type text not null,
    version integer not null,
    primary key (aggregate_id, aggregate_type)
) strict, without rowid;
