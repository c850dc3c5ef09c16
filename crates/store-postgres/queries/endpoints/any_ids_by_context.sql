-- Deleted ones too: what was delivered to them stays their context's.
select id
from tenant.endpoints
where context_id = $1
