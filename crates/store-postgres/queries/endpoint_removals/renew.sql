with gone as (
    select id from tenant.endpoints where id = $2 and deleted_at is not null
),
held as (
    insert into admin.held_endpoints (tenant_no, endpoint_id)
    select $1, id from gone
    on conflict (tenant_no, endpoint_id) do nothing
)
insert into admin.endpoint_removals (tenant_no, endpoint_id)
select $1, id from gone
on conflict (tenant_no, endpoint_id) do nothing
