-- One tenant with a million events, 100 000 of them owed, and 350 000 deliveries to 2 000 endpoints, 300 000 of them
-- queued. Written before the secondary indexes are there: that takes a quarter of the time.

create temp table later as
select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition
from pg_index i
join pg_class t on t.oid = i.indrelid
join pg_namespace n on n.oid = t.relnamespace
where n.nspname = 'admin'
    and t.relname in ('events', 'deliveries', 'troubled_deliveries')
    and not i.indisprimary;

do $$
declare
    dropped record;
begin
    for dropped in select * from later loop
        execute 'drop index ' || dropped.name;
    end loop;
end
$$;

insert into admin.events (
    id, event_type, aggregate_id, aggregate_type, aggregate_version, correlation_id, context_id, occurred_at,
    created_at, event_metadata, event_data
)
select
    pg_temp.id(1, i), 'kind_' || i % 50 || '.done', pg_temp.id(2, i % 200000), 'thing', 1 + i / 200000,
    case when i % 10 = 0 then pg_temp.id(3, i % 1000) end, case when i % 20 = 0 then pg_temp.id(4, i % 200) end,
    pg_temp.at(i), pg_temp.at(i), '{}', '{}'
from generate_series(1::bigint, 1000000) i;

insert into admin.deliveries (
    id, event_id, endpoint_id, trigger, status, due_at, current_attempt, max_attempts, max_attempts_reached,
    max_retry_attempts, base_backoff_seconds, backoff_multiplier, cancel_reason, subscription_ids, created_at
)
select
    pg_temp.id(5, i), pg_temp.id(1, i), pg_temp.id(6, i % 2000), 'event', status,
    case when status in ('pending', 'retrying') then pg_temp.at(i) end,
    case when status = 'pending' then 0 else 4 end, 5, false, 4, 5, 2,
    case when status = 'cancelled' then 'by hand' end, '{}', pg_temp.at(i)
from (
    select
        i,
        case when i > 600000 then 'pending' when i % 20 = 0 then 'failed' when i % 20 = 1 then 'cancelled'
            when i % 20 = 2 then 'retrying' else 'success' end as status
    from generate_series(550001::bigint, 900000) i
) d;

insert into admin.troubled_deliveries
select id, endpoint_id, status from admin.deliveries where status in ('retrying', 'failed', 'cancelled');

insert into admin.delivery_queue (tenant_no, endpoint_id, due_at, delivery_id, event_id)
select 1, endpoint_id, due_at, id, event_id from admin.deliveries where due_at is not null;

insert into admin.attempts (
    delivery_id, attempt_number, request_id, endpoint_revision, status, attempted_at, completed_at, response_time_ms,
    connection_reused
)
select id, n, id, 1, 'success', created_at, created_at, 7, true
from admin.deliveries
cross join generate_series(1, 4) n
where status <> 'pending';

insert into admin.undelivered_events
select pg_temp.id(1, i), pg_temp.at(i) from generate_series(1::bigint, 550000) i;

insert into admin.owed_dispatches (xid, tenant_no, event_id)
select (1000 + i / 10)::text::xid8, 1, pg_temp.id(1, i) from generate_series(900001::bigint, 1000000) i;

insert into admin.stream_heads
select pg_temp.id(2, i), 'thing', 5 from generate_series(0::bigint, 99999) i;

insert into admin.endpoints (
    id, revision, name, endpoint_url, http_method, signature_header, custom_headers, timeout_seconds, follow_redirects,
    verify_ssl, max_retry_attempts, retry_backoff_seconds, retry_backoff_multiplier, is_active, is_verified, context_id,
    created_at, updated_at, changed
)
select
    pg_temp.id(6, i), 1, 'receiver', 'https://example.com/', 'POST', 'X', '[]', 30, false, true, 4, 5, 2, true, false,
    case when i % 20 = 0 then pg_temp.id(4, i % 200) end, pg_temp.at(i), pg_temp.at(i), i + 1
from generate_series(0::bigint, 1999) i;

insert into admin.endpoint_secrets select id, 0, '\x01' from admin.endpoints;

insert into admin.endpoint_revisions
select id, 1, endpoint_url, http_method, signature_header, '[]', true from admin.endpoints;

insert into admin.subscriptions (
    id, revision, endpoint_id, pattern, filter, is_active, created_at, updated_at, changed
)
select
    pg_temp.id(7, i), 1, pg_temp.id(6, i % 2000), 'kind_' || i % 50 || '.done', '{}', true, pg_temp.at(i),
    pg_temp.at(i), 2001 + i
from generate_series(0::bigint, 9999) i;

update admin.tenants set catalogue_version = 20000;

insert into admin.event_types (
    id, revision, event_type, category, display_name, is_enabled, created_at, updated_at
)
select pg_temp.id(8, i), 1, 'kind_' || i || '.done', 'kind_' || i, 'Done', true, pg_temp.at(i), pg_temp.at(i)
from generate_series(0::bigint, 1999) i;

insert into admin.api_keys (id, digest, tenant_no, name, scopes, created_at)
select pg_temp.id(9, i), sha256(i::text::bytea), 1, 'key', '{}', pg_temp.at(i) from generate_series(0::bigint, 1999) i;

do $$
declare
    dropped record;
begin
    for dropped in select * from later loop
        execute dropped.definition;
    end loop;
end
$$;
