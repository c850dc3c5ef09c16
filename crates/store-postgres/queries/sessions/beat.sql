-- A beat takes the place of those since the last one that is known to have been written. A node of a version before, which
-- has no such beats, looks for them in the session's row: they are written there too for as long as there is one.
with me as (
    select no from admin.sessions where no = $1 for key share
),
beat as (
    insert into admin.session_beats (session_no, beat_no)
    select no, $3 from me
    returning session_no
),
replaced as (
    delete from admin.session_beats
    where session_no = $1 and beat_no >= $2 and beat_no < $3
),
told as (
    update admin.sessions
    set beat_at = clock_timestamp()
    where no = $1
        and exists (
            select 1
            from admin.sessions other
            where other.no <> $1
                and (
                    select b.beat_no
                    from admin.session_beats b
                    where b.session_no = other.no
                    order by b.beat_no desc
                    limit 1
                ) is null
        )
)
select count(*) from beat
