-- Which transactions are over: everything that they wrote is seen by whatever looks from now on.
select
    (pg_snapshot_xmax(s.snapshot))::text::bigint,
    array(select running::text::bigint from pg_snapshot_xip(s.snapshot) as running)
from (select pg_current_snapshot() as snapshot) s
