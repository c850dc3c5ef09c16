update subscriptions set deleted_at = updated_at, changed = ?2 where id = ?1
