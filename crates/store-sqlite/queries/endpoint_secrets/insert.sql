insert into endpoint_secrets (endpoint_no, position, sealed, expires_at) values (?1, ?2, ?3, ?4)
