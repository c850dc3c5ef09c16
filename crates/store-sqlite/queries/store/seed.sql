-- Changes a row only the first time.
update store_state set event_types_seeded = 1 where only = 1 and event_types_seeded = 0
