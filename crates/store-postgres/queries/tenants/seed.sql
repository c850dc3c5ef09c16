-- Changes a row only the first time.
update admin.tenants
set event_types_seeded = true
where schema_name = $1 and not event_types_seeded
