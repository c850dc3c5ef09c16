select s.name, extract(epoch from clock_timestamp() - coalesce(newest.beat_at, s.beat_at))::double precision
from admin.sessions s
left join lateral (
    select b.beat_at
    from admin.session_beats b
    where b.session_no = s.no
    order by b.beat_no desc
    limit 1
) newest on true
order by s.no
