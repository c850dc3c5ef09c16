-- One per event, endpoint and trigger: writing them again changes nothing.
insert into deliveries (
    seq, id, event_seq, endpoint_no, trigger, status, due_at, current_attempt, max_attempts, max_attempts_reached,
    max_retry_attempts, base_backoff_seconds, backoff_multiplier, subscription_ids, created_at
) values (?1, ?2, ?3, ?4, ?5, 'pending', ?6, 0, ?7, 0, ?8, ?9, ?10, ?11, ?12)
on conflict (event_seq, endpoint_no, trigger) do nothing
