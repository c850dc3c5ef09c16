delete from delivery_queue where endpoint_no = ?1 and due_at = ?2 and delivery_seq = ?3
