-- Whether the server is a standby, and whether somebody has made its sessions read-only. Not transaction_read_only, which is
-- on for either reason: between a question for it and one for the standby the server may be promoted.
select pg_is_in_recovery() as is_standby, current_setting('default_transaction_read_only')::boolean as is_read_only
