-- What an attempt must know of the delivery.
select id, event_seq, current_attempt, max_attempts, max_retry_attempts, base_backoff_seconds, backoff_multiplier
from deliveries
where seq = ?1
