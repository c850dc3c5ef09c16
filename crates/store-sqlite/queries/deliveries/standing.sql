-- What a settlement must know of the delivery.
select endpoint_no, status, due_at, current_attempt, max_attempts, cancel_requested from deliveries where seq = ?1
