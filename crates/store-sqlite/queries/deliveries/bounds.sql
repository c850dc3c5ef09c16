select (select min(seq) from deliveries), (select max(seq) from deliveries)
