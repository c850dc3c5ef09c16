-- Which master key secrets are sealed under: the fingerprint tells keys apart and nothing else about them. Used in the
-- admin file alone.
alter table store_state add column master_key_fingerprint blob
    check (master_key_fingerprint is null or length(master_key_fingerprint) = 16);
