select seq, created_at from deliveries order by seq desc limit 1
