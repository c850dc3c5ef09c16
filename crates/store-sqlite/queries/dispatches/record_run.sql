insert into dispatch_runs (first_seq, last_seq, processed_at) values (?1, ?2, ?3)
