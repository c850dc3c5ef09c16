delete from endpoint_secrets where endpoint_no = ?1
