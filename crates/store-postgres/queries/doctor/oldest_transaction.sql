-- Who may not see everybody's sessions finds those of others without a time, and so without a transaction.
select
    extract(epoch from clock_timestamp() - begun.at)::double precision,
    begun.who
from (
    select xact_start, concat_ws(' ', 'process', pid, 'of', usename, nullif(application_name, ''))
    from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid()
    union all
    select prepared, concat_ws(' ', 'prepared transaction', gid, 'of', owner)
    from pg_prepared_xacts
) as begun (at, who)
where begun.at is not null
order by begun.at
limit 1
