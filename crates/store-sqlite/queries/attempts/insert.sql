insert into attempts (
    slot, request_id, endpoint_revision, status, error_code, attempted_at, completed_at, response_time_ms,
    connection_reused, signature_standard, signature_body, signature_body_previous, error_message, response_status,
    response_headers, response_body_truncated, response_body
) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
