-- In the order given, from position 0.
insert into tenant.endpoint_secrets (endpoint_id, position, sealed, expires_at)
select $1, secret.position - 1, secret.sealed, secret.expires_at
from unnest($2::bytea[], $3::timestamptz[]) with ordinality as secret (sealed, expires_at, position)
