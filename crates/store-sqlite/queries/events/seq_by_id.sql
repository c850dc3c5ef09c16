select seq from events where id = ?1
