select status, count(*) from deliveries where endpoint_no = ?1 and seq >= ?2 group by status
