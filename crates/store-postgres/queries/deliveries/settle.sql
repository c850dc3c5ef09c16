-- Attempts, what they mean, and the end of their leases.
--
-- Only a lease that its token still holds is settled. Whether a cancellation was asked for is read from the row as it
-- is when it is changed: asked for a moment ago, it counts, and another try does not come.
--
-- Every table is reached from the rows given, through its key: by look-ups of one row after the other, by places
-- (`ctid`) and by arrays that are made once. The planner, who may believe that a queue is empty, must never come to
-- read a whole one, nor to sort an array anew for each row. What succeeded is changed together, for it is changed
-- alike.
with done as (
    select *
    from unnest(
        $2::uuid[], $3::bigint[], $17::integer[], $18::text[], $19::timestamptz[], $20::boolean[], $4::uuid[],
        $5::integer[], $21::text[], $22::text[], $6::timestamptz[], $7::timestamptz[], $8::bigint[], $9::boolean[],
        $10::text[], $11::text[], $12::text[], $23::text[], $13::integer[], $14::text[], $15::boolean[], $16::bytea[]
    ) as done (
        id, token, attempt_number, state, next_due_at, max_attempts_reached, request_id, endpoint_revision, status,
        error_code, attempted_at, completed_at, response_time_ms, connection_reused, signature_standard,
        signature_body, signature_body_previous, error_message, response_status, response_headers,
        response_body_truncated, response_body
    )
),
held as materialized (
    select done.id, delivery.status as was, place.ctid
    from done
    cross join lateral (
        select d.endpoint_id, d.due_at, d.status
        from tenant.deliveries d
        where d.id = done.id and d.current_attempt + 1 = done.attempt_number
        offset 0
    ) delivery
    cross join lateral (
        select q.ctid
        from admin.delivery_queue q
        where q.tenant_no = $1
            and q.endpoint_id = delivery.endpoint_id
            and q.due_at = delivery.due_at
            and q.delivery_id = done.id
            and q.lease_token = done.token
        offset 0
    ) place
),
ended as (
    delete from admin.delivery_queue
    -- The token once more: where the row is changed at this moment, it is looked at again, as it is then.
    where ctid = any (array(select held.ctid from held)) and lease_token = any ($3::bigint[])
    returning delivery_id, lease_token
),
next as materialized (
    select done.id, done.token, done.attempt_number, done.state, done.next_due_at, done.max_attempts_reached
    from done
    join ended on ended.delivery_id = done.id and ended.lease_token = done.token
),
succeeded as (
    update tenant.deliveries d
    set status = 'success', due_at = null, cancel_requested = null, current_attempt = d.current_attempt + 1
    where d.id = any (array(select next.id from next where next.state = 'success'))
    returning d.id
),
-- In one row, as arrays: a row that somebody changes at this moment is looked at again, and can then ask for nothing
-- but what it was joined with.
others as materialized (
    select
        array_agg(next.id) as ids,
        array_agg(next.state) as states,
        array_agg(next.next_due_at) as dues,
        array_agg(next.max_attempts_reached) as reached
    from next
    where next.state <> 'success'
),
unsuccessful as (
    update tenant.deliveries d
    set
        status = case
            when others.states[array_position(others.ids, d.id)] = 'retrying' and d.cancel_requested is not null
            then 'cancelled'
            else others.states[array_position(others.ids, d.id)]
        end,
        due_at = case when d.cancel_requested is null then others.dues[array_position(others.ids, d.id)] end,
        cancel_reason = case
            when others.states[array_position(others.ids, d.id)] = 'retrying' then d.cancel_requested
        end,
        cancel_requested = null,
        current_attempt = d.current_attempt + 1,
        max_attempts_reached = others.reached[array_position(others.ids, d.id)]
    from others
    where d.id = any (others.ids)
    returning
        d.id, d.endpoint_id, d.event_id, d.status, d.due_at, d.cancel_reason, d.max_attempts_reached
),
requeued as (
    insert into admin.delivery_queue (tenant_no, endpoint_id, due_at, delivery_id, event_id)
    select $1, endpoint_id, due_at, id, event_id from unsuccessful where status = 'retrying'
),
troubled as (
    insert into tenant.troubled_deliveries (delivery_id, endpoint_id, status)
    select id, endpoint_id, status from unsuccessful
    on conflict (delivery_id) do update set status = excluded.status
),
recovered as (
    delete from tenant.troubled_deliveries
    where delivery_id = any (
        array(
            select held.id
            from held
            where held.was = 'retrying' and held.id in (select succeeded.id from succeeded)
        )
    )
),
recorded as (
    insert into tenant.attempts (
        delivery_id, attempt_number, request_id, endpoint_revision, status, error_code, attempted_at, completed_at,
        response_time_ms, connection_reused, signature_standard, signature_body, signature_body_previous,
        error_message, response_status, response_headers, response_body_truncated, response_body
    )
    select
        done.id, done.attempt_number, done.request_id, done.endpoint_revision, done.status, done.error_code,
        done.attempted_at, done.completed_at, done.response_time_ms, done.connection_reused,
        done.signature_standard, done.signature_body, done.signature_body_previous, done.error_message,
        done.response_status, done.response_headers, done.response_body_truncated, done.response_body
    from done
    join next on next.id = done.id and next.token = done.token
)
select next.id, next.token, 'success', null::timestamptz, null::text, false from next where next.state = 'success'
union all
select u.id, next.token, u.status, u.due_at, u.cancel_reason, u.max_attempts_reached
from unsuccessful u
join next on next.id = u.id
