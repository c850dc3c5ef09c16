select exists (select 1 from tenant.endpoints where id = $1 and deleted_at is null)
