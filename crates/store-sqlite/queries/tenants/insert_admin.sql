-- Changes a row only the first time. A database that is older than its list of tenants is as old as the oldest of what
-- it holds; one that holds nothing was made now.
insert into tenants (schema, created_at)
select
    'admin',
    min(
        cast(unixepoch('now', 'subsec') * 1000000 as integer),
        coalesce((select created_at from events where seq = (select min(seq) from events)), 9223372036854775807),
        coalesce((select created_at from endpoints where no = (select min(no) from endpoints)), 9223372036854775807),
        coalesce((select created_at from event_types where no = (select min(no) from event_types)), 9223372036854775807)
    )
where true
on conflict (schema) do nothing
