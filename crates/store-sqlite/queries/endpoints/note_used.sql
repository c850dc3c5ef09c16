-- An older time never replaces a newer one; neither revision nor catalogue version move.
update endpoints
set last_used_at = ?2
where id = ?1 and deleted_at is null and (last_used_at is null or last_used_at < ?2)
