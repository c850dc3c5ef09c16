-- The platform's own tenant comes with the database. Its time is the database's: nobody made it.
insert into admin.tenants (schema_name, created_at)
values ('admin', clock_timestamp())
on conflict (schema_name) do nothing
