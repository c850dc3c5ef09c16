-- Never back: notes are written late and in any order.
update api_keys set last_used_at = ?2 where id = ?1 and (last_used_at is null or last_used_at < ?2)
