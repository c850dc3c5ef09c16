insert into tenant.subscriptions (
    id, revision, endpoint_id, pattern, filter, is_active, context_id, subscription_name, description, created_at,
    updated_at, last_triggered_at, changed
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
on conflict (id) do nothing
