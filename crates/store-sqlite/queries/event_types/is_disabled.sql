-- A type without an entry is not disabled.
select exists (select 1 from event_types where event_type = ?1 and is_enabled = 0)
