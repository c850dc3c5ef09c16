insert into tenants (schema, name, created_at) values (?1, ?2, ?3) on conflict (schema) do nothing
