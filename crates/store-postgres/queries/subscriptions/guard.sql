-- What an update is decided by.
select revision, pattern
from tenant.subscriptions
where id = $1 and deleted_at is null
