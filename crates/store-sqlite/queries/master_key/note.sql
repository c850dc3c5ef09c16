-- Changes a row only if what is noted is what the caller knows.
update store_state set master_key_fingerprint = ?2 where only = 1 and master_key_fingerprint is ?1
