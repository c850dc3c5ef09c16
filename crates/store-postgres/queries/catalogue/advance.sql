-- Every change takes a number of its own. The row stays locked until the commit: a tenant's changes come one after the
-- other, so whoever sees a number sees the changes of all that are less.
update admin.tenants
set catalogue_version = catalogue_version + 1
where schema_name = $1
returning no, catalogue_version
