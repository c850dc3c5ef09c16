select
    e.no, e.id, e.revision, e.name, e.description, e.endpoint_url, e.http_method, e.signature_header,
    e.custom_headers, e.timeout_seconds, e.follow_redirects, e.verify_ssl, e.max_retry_attempts,
    e.retry_backoff_seconds, e.retry_backoff_multiplier, e.is_active, e.is_verified, e.disabled_reason,
    e.created_by_user_id, e.context_id, e.created_at, e.updated_at, e.last_used_at, e.verified_at,
    array(select s.sealed from tenant.endpoint_secrets s where s.endpoint_id = e.id order by s.position),
    array(select s.expires_at from tenant.endpoint_secrets s where s.endpoint_id = e.id order by s.position),
    octet_length(e.custom_headers) + octet_length(e.endpoint_url) + coalesce(octet_length(e.description), 0) as weight
from tenant.endpoints e
where e.no < $1
    and e.deleted_at is null
    and ($3::uuid is null or e.context_id = $3)
    and ($4::boolean is null or e.is_active = $4)
    and ($5::text is null or exists (
        select 1
        from tenant.subscriptions s
        where s.endpoint_id = e.id and s.deleted_at is null and s.is_active and s.pattern in ($5, $6::text, '*')
    ))
order by e.no desc
limit $2
