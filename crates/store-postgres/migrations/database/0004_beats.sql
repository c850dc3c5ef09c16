-- A session beats by a row of its own, and its row in admin.sessions is left alone: claims and publishes lock that one
-- against removal, and would walk over a version for each beat since the oldest transaction that is open somewhere. Each
-- beat has a number, so that the newest is found from the end of the key, however many dead ones lie before it.
create table admin.session_beats (
    session_no bigint not null references admin.sessions on delete cascade,
    beat_no bigint not null,
    beat_at timestamptz not null default clock_timestamp(),
    primary key (session_no, beat_no)
);
