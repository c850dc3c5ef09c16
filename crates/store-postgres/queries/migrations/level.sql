select coalesce(max(level), 0)
from admin.migrations
where scope = $1
