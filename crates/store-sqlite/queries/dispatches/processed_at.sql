-- The newest run that begins at or before the event, if it reaches it.
select processed_at
from (select last_seq, processed_at from dispatch_runs where first_seq <= ?1 order by first_seq desc limit 1)
where last_seq >= ?1
