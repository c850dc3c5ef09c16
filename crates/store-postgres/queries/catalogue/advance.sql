-- Every change takes a number of its own. The row stays locked until the commit: a tenant's changes come one after the
-- other, so whoever sees a number sees the changes of all that are less. The time is in it so that a number is not
-- taken again by another change after the database has gone back to an earlier state: in a failover, or from a backup.
update admin.tenants
set catalogue_version = greatest(catalogue_version + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint)
where schema_name = $1
returning no, catalogue_version
