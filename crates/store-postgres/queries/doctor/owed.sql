-- How many there are, counted up to a limit, and the one whose transaction began first.
select
    count(*),
    (select event_id from admin.owed_dispatches order by xid, no limit 1)
from (select from admin.owed_dispatches limit $1) as owed
