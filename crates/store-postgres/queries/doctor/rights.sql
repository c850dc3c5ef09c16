-- What a node needs and this role has not, a few of them.
select lacking.what
from (
    select format('usage of schema %I', space.nspname)
    from pg_namespace as space
    where space.nspname in (select schema_name from admin.tenants)
        and not has_schema_privilege(space.oid, 'usage')
    union all
    select format('select, insert, update and delete on %I.%I', space.nspname, relation.relname)
    from pg_class as relation
    join pg_namespace as space on space.oid = relation.relnamespace
    where space.nspname in (select schema_name from admin.tenants)
        and relation.relkind in ('r', 'p')
        -- A list of rights asks for any of them.
        and not (
            has_table_privilege(relation.oid, 'select') and has_table_privilege(relation.oid, 'insert')
            and has_table_privilege(relation.oid, 'update') and has_table_privilege(relation.oid, 'delete')
        )
) as lacking (what)
order by lacking.what
limit 5
