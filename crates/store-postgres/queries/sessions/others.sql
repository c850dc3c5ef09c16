-- What is heard of the others, by a clock that may be set: it only says whether a session has beaten since.
select no, beat_at
from admin.sessions
where no <> $1
