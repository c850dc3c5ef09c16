-- Read after the claim that found these tenants: the counts are then at least those of its snapshot.
select no, schema_name, catalogue_version
from admin.tenants
where no = any ($1::integer[])
