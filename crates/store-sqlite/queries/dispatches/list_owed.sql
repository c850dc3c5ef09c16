-- Oldest first. The reader skips the few at the head that are leased, and stops when it has enough.
select event_seq from owed_dispatches order by event_seq
