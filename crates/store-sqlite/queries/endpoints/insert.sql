insert into endpoints (
    id, revision, name, description, endpoint_url, http_method, signature_header, custom_headers, timeout_seconds,
    follow_redirects, verify_ssl, max_retry_attempts, retry_backoff_seconds, retry_backoff_multiplier, is_active,
    is_verified, disabled_reason, created_by_user_id, context_id, created_at, updated_at, last_used_at, verified_at,
    changed
) values (
    :id, :revision, :name, :description, :endpoint_url, :http_method, :signature_header, :custom_headers,
    :timeout_seconds, :follow_redirects, :verify_ssl, :max_retry_attempts, :retry_backoff_seconds,
    :retry_backoff_multiplier, :is_active, :is_verified, :disabled_reason, :created_by_user_id, :context_id,
    :created_at, :updated_at, :last_used_at, :verified_at, :changed
)
returning no
