-- Oldest first, from a transaction on: what older ones wrote has been seen. The session is locked against removal, so
-- that nobody claims in the name of one whose leases were already freed.
with me as (
    select no from admin.sessions where no = $1 for key share
),
picked as (
    select xid, no
    from admin.owed_dispatches
    where xid >= $2::bigint::text::xid8
    and (leased_until is null or leased_until <= $4)
    order by xid, no
    limit $5
    for update skip locked
)
update admin.owed_dispatches owed
set lease_token = pg_current_xact_id()::text::bigint, leased_by = me.no, leased_until = $3
from picked, me
where owed.xid = picked.xid and owed.no = picked.no
returning owed.xid::text::bigint, owed.no, owed.tenant_no, owed.event_id, owed.lease_token
