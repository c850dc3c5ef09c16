select id, name, schema, context_id, scopes, created_at, expires_at, last_used_at from api_keys where no = ?1
