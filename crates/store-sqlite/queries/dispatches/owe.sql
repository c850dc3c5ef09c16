insert into owed_dispatches (event_seq) values (?1)
