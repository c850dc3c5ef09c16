select schema_name, name, created_at
from admin.tenants
where schema_name = $1
