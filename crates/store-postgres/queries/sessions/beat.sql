update admin.sessions
set beat_at = clock_timestamp()
where no = $1
