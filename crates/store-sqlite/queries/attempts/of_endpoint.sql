-- Streamed: memory does not grow with what is counted.
select a.response_time_ms, a.error_code
from deliveries d
cross join attempts a on a.slot between d.seq * 65536 and d.seq * 65536 + 65535
where d.endpoint_no = ?1 and d.seq >= ?2
