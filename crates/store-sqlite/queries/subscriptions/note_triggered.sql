-- An older time never replaces a newer one; neither revision nor catalogue version move.
update subscriptions
set last_triggered_at = ?2
where id = ?1 and deleted_at is null and (last_triggered_at is null or last_triggered_at < ?2)
