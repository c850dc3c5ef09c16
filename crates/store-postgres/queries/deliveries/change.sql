-- By hand, if it still stands as it was read; the states of before are the guard.
update tenant.deliveries
set
    status = $5,
    due_at = $6,
    max_attempts = $7,
    max_attempts_reached = $8,
    cancel_reason = $9,
    cancel_requested = $10
where id = $1
    and status = $2
    and current_attempt = $3
    and due_at is not distinct from $4
returning endpoint_id, event_id
