insert into tenant.troubled_deliveries (delivery_id, endpoint_id, status)
values ($1, $2, $3)
on conflict (delivery_id) do update set status = excluded.status
