delete from owed_dispatches where event_seq = ?1
