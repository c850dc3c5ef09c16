-- A transaction id is given only where writing is possible: a standby refuses.
select pg_current_xact_id() is not null
