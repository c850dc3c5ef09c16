update tenant.endpoints
set deleted_at = $2, changed = $3
where id = $1 and deleted_at is null
