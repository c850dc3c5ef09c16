select no, schema_name
from admin.tenants
where no = any ($1::integer[])
