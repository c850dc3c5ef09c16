select
    slot, request_id, endpoint_revision, status, error_code, attempted_at, completed_at, response_time_ms,
    connection_reused, signature_standard, signature_body, signature_body_previous, error_message, response_status,
    response_headers, response_body_truncated, response_body
from attempts
where slot = ?1
