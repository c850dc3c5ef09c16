-- Never attempted and not due at once. Ids are made with the time at which they are written: where no clock ran ahead,
-- there are none from that of now on.
select d.id from tenant.deliveries d where d.id > $1 and d.status = 'pending' and d.due_at > $2 limit $3
