-- Never attempted and not due at once. Ids are made with the time at which they are written: where no clock ran ahead,
-- there are none from that of now on.
select seq, id from deliveries where id > ?1 and status = 'pending' and due_at > ?2 order by id limit ?3
