update tenant.subscriptions
set deleted_at = updated_at, changed = $2
where id = $1 and deleted_at is null
