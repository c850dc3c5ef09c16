select schema, name, created_at from tenants where no = ?1
