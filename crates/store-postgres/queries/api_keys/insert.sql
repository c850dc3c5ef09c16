insert into admin.api_keys (
    id, digest, tenant_no, name, context_id, scopes, created_at, expires_at, last_used_at
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict do nothing
