select no
from admin.tenants
where schema_name = $1
