-- Only over the revision that was read. `last_triggered_at` is not the writer's to set: see note_triggered.
update tenant.subscriptions
set
    revision = $2,
    pattern = $3,
    filter = $4,
    is_active = $5,
    context_id = $6,
    subscription_name = $7,
    description = $8,
    updated_at = $9,
    changed = $10
where id = $1 and revision = $2 - 1 and deleted_at is null
