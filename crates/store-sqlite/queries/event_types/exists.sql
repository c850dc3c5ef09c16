select exists (select 1 from event_types where id = ?1)
