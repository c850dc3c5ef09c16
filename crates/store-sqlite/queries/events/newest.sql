-- The right edge: the next event's seq is one more, its created_at not before.
select seq, created_at from events where seq = (select max(seq) from events)
