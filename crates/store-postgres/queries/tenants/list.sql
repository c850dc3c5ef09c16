select no::bigint, schema_name, name, created_at
from admin.tenants
where no < $1::bigint
order by no desc
limit $2
