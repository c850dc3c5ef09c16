-- Only over the revision that was read. `last_used_at` is not the writer's to set: see note_used.
update endpoints
set revision = :revision, name = :name, description = :description, endpoint_url = :endpoint_url,
    http_method = :http_method, signature_header = :signature_header, custom_headers = :custom_headers,
    timeout_seconds = :timeout_seconds, follow_redirects = :follow_redirects, verify_ssl = :verify_ssl,
    max_retry_attempts = :max_retry_attempts, retry_backoff_seconds = :retry_backoff_seconds,
    retry_backoff_multiplier = :retry_backoff_multiplier, is_active = :is_active, is_verified = :is_verified,
    disabled_reason = :disabled_reason, updated_at = :updated_at, verified_at = :verified_at, changed = :changed
where id = :id and revision = :revision - 1 and deleted_at is null
returning no
