select
    d.seq, d.event_seq, d.endpoint_no, d.due_at, d.id, p.id, e.id, d.status, d.current_attempt, d.max_attempts,
    d.max_attempts_reached, d.max_retry_attempts, d.base_backoff_seconds, d.backoff_multiplier, d.cancel_reason,
    d.cancel_requested, d.trigger, d.subscription_ids, d.created_at, p.is_active, p.deleted_at,
    p.context_id
from deliveries d
join endpoints p on p.no = d.endpoint_no
join events e on e.seq = d.event_seq
where d.id = ?1
