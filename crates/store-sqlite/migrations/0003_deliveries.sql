-- Deliveries, the queue of those that are not over, and attempts.

-- The checks mirror the states that the domain knows: what is not over is due at some time, what is cancelled has a
-- reason. `created_at` never decreases along `seq`, as for events.
create table deliveries (
    seq integer primary key,
    id blob not null unique check (length(id) = 16),
    event_seq integer not null,
    endpoint_no integer not null,
    trigger text not null check (trigger in ('event', 'test')),
    status text not null check (status in ('pending', 'retrying', 'success', 'failed', 'cancelled')),
    -- When the next attempt is due; what users see as `next_retry_at` while it is retrying.
    due_at integer check ((due_at is not null) = (status in ('pending', 'retrying'))),
    current_attempt integer not null check (current_attempt >= 0),
    max_attempts integer not null,
    max_attempts_reached integer not null check (max_attempts_reached in (0, 1)),
    max_retry_attempts integer not null,
    base_backoff_seconds integer not null,
    backoff_multiplier real not null,
    cancel_reason text check ((cancel_reason is not null) = (status = 'cancelled')),
    -- A cancellation that waits for the attempt in flight.
    cancel_requested text check (cancel_requested is null or status in ('pending', 'retrying')),
    -- 16 bytes each.
    subscription_ids blob not null check (length(subscription_ids) % 16 = 0),
    created_at integer not null,
    check (max_attempts_reached = 0 or status = 'failed'),
    check (status <> 'pending' or current_attempt = 0)
) strict;

-- Makes writing the deliveries of an event idempotent, and finds them.
create unique index deliveries_by_event on deliveries (event_seq, endpoint_no, trigger);
create index deliveries_by_endpoint on deliveries (endpoint_no);
-- Successes are the rule and are not indexed by state: only what somebody may look for is.
create index deliveries_by_status on deliveries (status) where status in ('retrying', 'failed', 'cancelled');
create index deliveries_by_endpoint_and_status on deliveries (endpoint_no, status)
    where status in ('retrying', 'failed', 'cancelled');

-- One row per delivery that is not over, in the order in which its endpoint's are claimed. `due_at` is the delivery's.
create table delivery_queue (
    endpoint_no integer not null,
    due_at integer not null,
    delivery_seq integer not null,
    primary key (endpoint_no, due_at, delivery_seq)
) strict, without rowid;

-- Attempts never change. `slot` is delivery_seq × 65536 + attempt_number: one tree instead of two, and a delivery's
-- attempts lie together. A table without rowid would keep such wide rows in its inner pages.
create table attempts (
    slot integer primary key,
    request_id blob not null check (length(request_id) = 16),
    endpoint_revision integer not null,
    status text not null check (status in ('success', 'failed', 'timeout')),
    error_code text check ((error_code is null) = (status = 'success')),
    attempted_at integer not null,
    completed_at integer not null,
    response_time_ms integer not null,
    connection_reused integer not null check (connection_reused in (0, 1)),
    signature_standard text,
    signature_body text,
    signature_body_previous text,
    error_message text,
    response_status integer,
    -- JSON: [[name, value], …] in the order received.
    response_headers text,
    response_body_truncated integer,
    response_body blob,
    check ((response_status is null) = (response_headers is null)),
    check ((response_status is null) = (response_body is null))
) strict;

-- Deliveries with `cancel_requested`: a handful, so that finishing them never searches.
create table cancel_requests (
    delivery_seq integer primary key
) strict;

-- Deleted endpoints whose deliveries are not all cancelled yet.
create table endpoint_removals (
    endpoint_no integer primary key
) strict;
