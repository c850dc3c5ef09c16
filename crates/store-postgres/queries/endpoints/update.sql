-- Only over the revision that was read. `last_used_at` is not the writer's to set: see note_used.
update tenant.endpoints
set
    revision = $2,
    name = $3,
    description = $4,
    endpoint_url = $5,
    http_method = $6,
    signature_header = $7,
    custom_headers = $8,
    timeout_seconds = $9,
    follow_redirects = $10,
    verify_ssl = $11,
    max_retry_attempts = $12,
    retry_backoff_seconds = $13,
    retry_backoff_multiplier = $14,
    is_active = $15,
    is_verified = $16,
    disabled_reason = $17,
    updated_at = $18,
    verified_at = $19,
    changed = $20
where id = $1 and revision = $2 - 1 and deleted_at is null
