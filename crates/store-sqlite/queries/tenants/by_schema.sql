select schema, name, created_at from tenants where schema = ?1
