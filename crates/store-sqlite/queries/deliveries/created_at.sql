-- One step of a bisection: seqs may have gaps.
select seq, created_at from deliveries where seq >= ?1 order by seq limit 1
