insert into tenant.endpoint_revisions (
    endpoint_id, revision, endpoint_url, http_method, signature_header, custom_headers_redacted, is_active
) values ($1, $2, $3, $4, $5, $6, $7)
