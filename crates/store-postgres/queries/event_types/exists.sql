select exists (select 1 from tenant.event_types where id = $1)
