-- What is heard of the others, by a clock that may be set: it only says whether a session has beaten since. A node of a
-- version before beats in the session's row.
select s.no, coalesce(newest.beat_at, s.beat_at)
from admin.sessions s
left join lateral (
    select b.beat_at
    from admin.session_beats b
    where b.session_no = s.no
    order by b.beat_no desc
    limit 1
) newest on true
where s.no <> $1
