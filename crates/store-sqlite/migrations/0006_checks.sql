-- The same tables and indexes in other words. For each row that is written SQLite builds a table of the values of every `in`
-- that has more than two of them, and throws it away: nine in the life of a delivery.

create table new_deliveries (
    seq integer primary key,
    id blob not null unique check (length(id) = 16),
    event_seq integer not null,
    endpoint_no integer not null,
    trigger text not null check (trigger in ('event', 'test')),
    status text not null check (
        status in ('pending', 'retrying') or status in ('success', 'failed') or status = 'cancelled'
    ),
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

insert into new_deliveries select * from deliveries;
drop table deliveries;
alter table new_deliveries rename to deliveries;

-- Makes writing the deliveries of an event idempotent, and finds them.
create unique index deliveries_by_event on deliveries (event_seq, endpoint_no, trigger);
create index deliveries_by_endpoint on deliveries (endpoint_no);
-- Successes are the rule and are not indexed by state: only what somebody may look for is.
create index deliveries_by_status on deliveries (status) where status not in ('pending', 'success');
create index deliveries_by_endpoint_and_status on deliveries (endpoint_no, status)
    where status not in ('pending', 'success');

create table new_attempts (
    slot integer primary key,
    request_id blob not null check (length(request_id) = 16),
    endpoint_revision integer not null,
    status text not null check (status in ('success', 'failed') or status = 'timeout'),
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

insert into new_attempts select * from attempts;
drop table attempts;
alter table new_attempts rename to attempts;
