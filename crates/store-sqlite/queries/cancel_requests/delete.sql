delete from cancel_requests where delivery_seq = ?1
