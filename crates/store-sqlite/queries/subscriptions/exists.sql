select exists (select 1 from subscriptions where id = ?1)
