-- Those that have not beaten for as long as a session may be silent, seen from our own last beat and not from now: when
-- the database itself stood still, nobody could beat, and nobody is dead.
delete from admin.sessions silent
using admin.sessions me
where me.no = $1
  and silent.beat_at < me.beat_at - make_interval(secs => $2)
returning silent.no, silent.name
