insert into delivery_queue (endpoint_no, due_at, delivery_seq) values (?1, ?2, ?3)
