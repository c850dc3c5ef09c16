-- Changes the row only if what is noted is what the caller knows. Of two at once the second looks again after the
-- first.
update admin.master_key
set fingerprint = $2
where no = 1 and fingerprint is not distinct from $1::bytea
