-- The endpoint's own change stands for these.
update subscriptions set deleted_at = ?2 where endpoint_no = ?1 and deleted_at is null
