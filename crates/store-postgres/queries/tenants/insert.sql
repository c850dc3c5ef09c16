-- Waits for whoever makes the same tenant, and finds it made.
insert into admin.tenants (schema_name, name, created_at)
values ($1, $2, $3)
on conflict (schema_name) do nothing
returning no
