-- A tenant's event log, and what is kept beside it. `tenant.` stands for the tenant's schema.

create table tenant.events (
    id uuid primary key,
    event_type text not null,
    event_name text,
    aggregate_id uuid not null,
    aggregate_type text not null,
    aggregate_version integer not null check (aggregate_version between 1 and 999999),
    correlation_id uuid,
    causation_id uuid,
    triggered_by_user_id uuid,
    context_id uuid,
    occurred_at timestamptz not null,
    created_at timestamptz not null,
    -- Text as it was sent: its bytes survive, which no JSON type would promise.
    event_metadata text not null,
    event_data text not null
);

-- Lists are in this order, then by id. Always appended at the right edge, so it costs little.
create index events_by_created on tenant.events (created_at);
create index events_by_aggregate on tenant.events (aggregate_id, aggregate_type, aggregate_version);
create index events_by_type on tenant.events (event_type, created_at);
create index events_by_correlation on tenant.events (correlation_id, created_at) where correlation_id is not null;
create index events_by_context on tenant.events (context_id, created_at) where context_id is not null;

-- When the dispatch of an event was settled that has no delivery to tell it: nobody wanted it, or an operator marked
-- it processed. Of the others it is the time of their first delivery.
create table tenant.undelivered_events (
    event_id uuid primary key,
    processed_at timestamptz not null
);

-- The newest version that a guarded publish gave an aggregate. Unguarded ones do not write here, so the newest version
-- is the greater of this and the newest in `events`; it outlives the events themselves.
create table tenant.stream_heads (
    aggregate_id uuid not null,
    aggregate_type text not null,
    version integer not null,
    primary key (aggregate_id, aggregate_type)
);
