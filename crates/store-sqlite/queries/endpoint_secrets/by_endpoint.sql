select sealed, expires_at from endpoint_secrets where endpoint_no = ?1 order by position
