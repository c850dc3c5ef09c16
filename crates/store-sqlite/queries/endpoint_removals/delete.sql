delete from endpoint_removals where endpoint_no = ?1
