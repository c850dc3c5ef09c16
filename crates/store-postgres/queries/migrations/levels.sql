select scope, max(level)
from admin.migrations
group by scope
