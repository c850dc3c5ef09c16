select pg_notify('neo_events', $1)
