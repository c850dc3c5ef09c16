insert into tenant.endpoints (
    id, revision, name, description, endpoint_url, http_method, signature_header, custom_headers, timeout_seconds,
    follow_redirects, verify_ssl, max_retry_attempts, retry_backoff_seconds, retry_backoff_multiplier, is_active,
    is_verified, disabled_reason, updated_at, verified_at, changed, created_by_user_id, context_id, created_at,
    last_used_at
) values (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24
)
on conflict (id) do nothing
