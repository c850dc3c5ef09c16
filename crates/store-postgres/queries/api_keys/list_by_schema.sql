select k.no, k.id, k.name, t.schema_name, k.context_id, k.scopes, k.created_at, k.expires_at, k.last_used_at
from admin.api_keys k
join admin.tenants t on t.no = k.tenant_no
where k.no < $1 and t.schema_name = $3
order by k.no desc
limit $2
