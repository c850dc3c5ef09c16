delete from tenant.event_types
where event_type = $1
