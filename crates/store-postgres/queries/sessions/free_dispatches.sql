-- A scan of everything owed: it happens once in the life of a node, when that is over.
update admin.owed_dispatches
set lease_token = null, leased_by = null, leased_until = null
where leased_by = any ($1::bigint[])
