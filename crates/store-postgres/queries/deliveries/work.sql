select id, current_attempt, max_attempts, max_retry_attempts, base_backoff_seconds, backoff_multiplier
from tenant.deliveries
where id = any ($1::uuid[])
