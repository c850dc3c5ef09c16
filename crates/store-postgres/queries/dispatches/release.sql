update admin.owed_dispatches owed
set lease_token = null, leased_by = null, leased_until = null
from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as given (xid, no, token)
where owed.xid = given.xid::text::xid8 and owed.no = given.no and owed.lease_token = given.token
