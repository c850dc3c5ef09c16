select slot
from attempts
where slot > ?1 * 65536 and slot < ?1 * 65536 + ?2
order by slot desc
limit ?3
