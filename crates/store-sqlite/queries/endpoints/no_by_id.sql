select no from endpoints where id = ?1 and deleted_at is null
