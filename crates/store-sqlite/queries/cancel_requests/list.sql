select delivery_seq from cancel_requests order by delivery_seq
