insert into stream_heads (aggregate_id, aggregate_type, version) values (?1, ?2, ?3)
on conflict (aggregate_id, aggregate_type) do update set version = excluded.version
