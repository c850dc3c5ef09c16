-- Due first. The reader skips the few at the head that are leased, and stops when it has enough.
select due_at, delivery_seq from delivery_queue where endpoint_no = ?1 order by due_at, delivery_seq
