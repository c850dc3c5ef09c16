-- A type without an entry is not disabled.
select exists (select 1 from tenant.event_types where event_type = $1 and not is_enabled)
