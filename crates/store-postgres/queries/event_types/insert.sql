insert into tenant.event_types (
    id, revision, event_type, category, display_name, description, is_enabled, example_payload, created_at, updated_at
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict do nothing
