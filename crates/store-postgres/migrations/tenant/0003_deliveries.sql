-- Deliveries and attempts. What is not over is also in `admin.delivery_queue`.

-- The checks mirror the states that the domain knows: what is not over is due at some time, what is cancelled has a
-- reason. Ids are made when an event is dispatched, so they are in the order of time, and lists are newest first by
-- them. No index has what settling changes, and pages have room: settling is an update in place.
create table tenant.deliveries (
    id uuid primary key,
    event_id uuid not null,
    endpoint_id uuid not null,
    trigger text not null check (trigger in ('event', 'test')),
    status text not null check (status in ('pending', 'retrying', 'success', 'failed', 'cancelled')),
    -- When the next attempt is due; what users see as `next_retry_at` while it is retrying.
    due_at timestamptz check ((due_at is not null) = (status in ('pending', 'retrying'))),
    current_attempt integer not null check (current_attempt >= 0),
    max_attempts integer not null,
    max_attempts_reached boolean not null,
    max_retry_attempts integer not null,
    base_backoff_seconds integer not null,
    backoff_multiplier double precision not null,
    cancel_reason text check ((cancel_reason is not null) = (status = 'cancelled')),
    -- A cancellation that waits for the attempt in flight.
    cancel_requested text check (cancel_requested is null or status in ('pending', 'retrying')),
    subscription_ids uuid[] not null,
    created_at timestamptz not null,
    check (not max_attempts_reached or status = 'failed'),
    check (status <> 'pending' or current_attempt = 0)
) with (fillfactor = 60);

-- Makes writing the deliveries of an event idempotent, and finds them.
create unique index deliveries_by_event on tenant.deliveries (event_id, endpoint_id, trigger);
create index deliveries_by_endpoint on tenant.deliveries (endpoint_id, id);

-- Deliveries that are retrying, failed or cancelled. Successes are the rule and are not here: this is the index by
-- state, as a table of its own, because an index on a delivery's state would cost every settlement three times as much.
create table tenant.troubled_deliveries (
    delivery_id uuid primary key,
    endpoint_id uuid not null,
    status text not null check (status in ('retrying', 'failed', 'cancelled'))
);

create index troubled_deliveries_by_status on tenant.troubled_deliveries (status, delivery_id);
create index troubled_deliveries_by_endpoint on tenant.troubled_deliveries (endpoint_id, status, delivery_id);

-- Attempts never change.
create table tenant.attempts (
    delivery_id uuid not null,
    attempt_number integer not null,
    request_id uuid not null,
    endpoint_revision integer not null,
    status text not null check (status in ('success', 'failed', 'timeout')),
    error_code text check ((error_code is null) = (status = 'success')),
    attempted_at timestamptz not null,
    completed_at timestamptz not null,
    response_time_ms bigint not null,
    connection_reused boolean not null,
    signature_standard text,
    signature_body text,
    signature_body_previous text,
    error_message text,
    response_status integer,
    -- JSON: [[name, value], …] in the order received.
    response_headers text,
    response_body_truncated boolean,
    response_body bytea,
    primary key (delivery_id, attempt_number),
    check ((response_status is null) = (response_headers is null)),
    check ((response_status is null) = (response_body is null))
);
