-- With what requests looked like as of their revision, or of the newest before it, and with what each weighs in a page.
-- The event's data is in every one of them; a byte of an answer's body may be a control character, which is six in JSON.
select
    a.attempt_number, a.request_id, a.status, a.error_code, a.attempted_at, a.completed_at, a.response_time_ms,
    a.connection_reused, a.signature_standard, a.signature_body, a.signature_body_previous, a.error_message,
    a.response_status, a.response_headers, a.response_body_truncated, a.response_body, r.endpoint_url, r.http_method,
    r.signature_header, r.custom_headers_redacted,
    1024
        + coalesce((select octet_length(e.event_data) from tenant.events e where e.id = $3), 0)
        + octet_length(r.endpoint_url)
        + octet_length(r.custom_headers_redacted)
        + coalesce(octet_length(a.error_message), 0)
        + coalesce(octet_length(a.response_headers), 0)
        + coalesce(octet_length(a.response_body), 0) * 6 as weight
from tenant.attempts a
cross join lateral (
    select r.endpoint_url, r.http_method, r.signature_header, r.custom_headers_redacted
    from tenant.endpoint_revisions r
    where r.endpoint_id = $2 and r.revision <= a.endpoint_revision
    order by r.revision desc
    limit 1
) r
where a.delivery_id = $1 and a.attempt_number < $4::bigint
order by a.attempt_number desc
limit $5
