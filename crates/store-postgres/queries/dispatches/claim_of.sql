-- The same for single transactions: those that were still running when everything younger was looked at.
with me as (
    select no, pg_current_xact_id()::text::bigint as token from admin.sessions where no = $1 for key share
),
picked as (
    select ctid
    from admin.owed_dispatches
    where xid = any ($2::bigint[]::text[]::xid8[])
    and (leased_until is null or leased_until <= $4)
    order by xid, no
    limit $5
    for update skip locked
)
update admin.owed_dispatches owed
set lease_token = me.token, leased_by = me.no, leased_until = $3
from me
where owed.ctid = any (array(select picked.ctid from picked))
returning
    owed.xid::text::bigint, owed.no, owed.tenant_no, owed.event_id, owed.lease_token,
    -- As of this statement's snapshot: whatever was subscribed before an event was published is counted in it.
    (select t.catalogue_version from admin.tenants t where t.no = owed.tenant_no)
