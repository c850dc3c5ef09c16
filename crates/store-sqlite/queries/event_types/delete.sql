delete from event_types where event_type = ?1
