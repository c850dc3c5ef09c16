-- Only over the revision that was read.
update tenant.event_types
set
    revision = $2,
    display_name = $3,
    description = $4,
    is_enabled = $5,
    example_payload = $6,
    updated_at = $7
where id = $1 and revision = $2 - 1
