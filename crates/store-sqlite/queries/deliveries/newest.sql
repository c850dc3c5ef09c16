select seq, created_at from deliveries where seq = (select max(seq) from deliveries)
