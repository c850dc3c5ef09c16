-- Of a delivery that is not over; its place in the queue moves with it.
update deliveries set due_at = ?2 where seq = ?1
