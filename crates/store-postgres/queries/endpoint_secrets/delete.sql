delete from tenant.endpoint_secrets
where endpoint_id = $1
