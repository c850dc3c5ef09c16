select no, id, revision, event_type, display_name, description, is_enabled, example_payload, created_at, updated_at
from tenant.event_types
where no < $1
    and ($3::text is null or category = $3)
    and ($4::boolean is null or is_enabled = $4)
order by no desc
limit $2
