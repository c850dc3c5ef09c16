select schema_name
from admin.tenants
order by no
