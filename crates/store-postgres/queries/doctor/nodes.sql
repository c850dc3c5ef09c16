select name, extract(epoch from clock_timestamp() - beat_at)::double precision
from admin.sessions
order by no
