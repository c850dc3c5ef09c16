select id, revision, event_type, display_name, description, is_enabled, example_payload, created_at, updated_at
from tenant.event_types
where event_type = $1
