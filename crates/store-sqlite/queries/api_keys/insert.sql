insert into api_keys (id, digest, name, schema, context_id, scopes, created_at, expires_at, last_used_at)
values (:id, :digest, :name, :schema, :context_id, :scopes, :created_at, :expires_at, :last_used_at)
on conflict do nothing
