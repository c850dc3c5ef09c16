-- The catalogue entry of an exact type is looked up when it is read, so that entries come and go freely.
select
    s.no, s.id, s.revision, s.endpoint_id, t.id, s.pattern, s.filter, s.is_active, s.context_id, s.subscription_name,
    s.description, s.created_at, s.updated_at, s.last_triggered_at
from tenant.subscriptions s
left join tenant.event_types t on t.event_type = s.pattern
where s.no < $1
    and s.deleted_at is null
    and ($3::uuid is null or s.context_id = $3)
    and ($4::boolean is null or s.is_active = $4)
order by s.no desc
limit $2
