-- Never from a final state that somebody else reached meanwhile: the caller read the row in this transaction.
update deliveries
set status = ?2, due_at = ?3, current_attempt = ?4, max_attempts = ?5, max_attempts_reached = ?6, cancel_reason = ?7,
    cancel_requested = ?8
where seq = ?1
