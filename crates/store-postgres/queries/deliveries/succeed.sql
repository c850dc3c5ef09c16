-- First attempts that succeeded, as most deliveries end: their leases, what became of the deliveries, the attempts. All
-- of them; or none, if one is not as its holder knew it (its lease was lost, or somebody moved it): then the division
-- at the end fails, and with it the statement. `settle.sql`, which asks of each what is asked of all here, would have
-- done the same at half as much again; it is for whatever did not come to pass here.
--
-- Rows are reached by their keys, one after the other, as there.
with ended as (
    delete from admin.delivery_queue
    where ctid = any (
        array(
            select place.ctid
            from (
                select
                    unnest($2::uuid[]) as id,
                    unnest($3::bigint[]) as token,
                    unnest($17::uuid[]) as endpoint_id,
                    unnest($18::timestamptz[]) as due_at
            ) as done
            cross join lateral (
                select q.ctid
                from admin.delivery_queue q
                where q.tenant_no = $1
                    and q.endpoint_id = done.endpoint_id
                    and q.due_at = done.due_at
                    and q.delivery_id = done.id
                    and q.lease_token = done.token
                offset 0
            ) place
        )
    )
    -- The token once more: where the row is changed at this moment, it is looked at again, as it is then.
    and lease_token = any ($3::bigint[])
    returning 1
),
succeeded as (
    update tenant.deliveries
    set status = 'success', due_at = null, cancel_requested = null, current_attempt = 1
    where id = any ($2::uuid[]) and status = 'pending'
    returning 1
),
recorded as (
    insert into tenant.attempts (
        delivery_id, attempt_number, request_id, endpoint_revision, status, attempted_at, completed_at,
        response_time_ms, connection_reused, signature_standard, signature_body, signature_body_previous,
        response_status, response_headers, response_body_truncated, response_body
    )
    select
        unnest($2::uuid[]),
        1,
        unnest($4::uuid[]),
        unnest($5::integer[]),
        'success',
        unnest($6::timestamptz[]),
        unnest($7::timestamptz[]),
        unnest($8::bigint[]),
        unnest($9::boolean[]),
        unnest($10::text[]),
        unnest($11::text[]),
        unnest($12::text[]),
        unnest($13::integer[]),
        unnest($14::text[]),
        unnest($15::boolean[]),
        unnest($16::bytea[])
)
select
    1 / (
        (select count(*) from ended) = cardinality($2::uuid[])
        and (select count(*) from succeeded) = cardinality($2::uuid[])
    )::integer
