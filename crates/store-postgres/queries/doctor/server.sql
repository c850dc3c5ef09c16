select
    current_setting('server_version'),
    coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false),
    coalesce(inet_server_addr() <<= '127.0.0.0/8' or inet_server_addr() = '::1', true),
    -- What is reserved for superusers and for those whom they allow is not for us.
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true)::integer, 0),
    (select sum(numbackends) from pg_stat_database)::bigint,
    current_setting('fsync'),
    current_setting('full_page_writes'),
    current_setting('synchronous_commit'),
    current_setting('autovacuum'),
    pg_has_role('pg_read_all_stats', 'usage'),
    has_database_privilege(current_database(), 'create')
