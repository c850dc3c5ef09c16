-- Which master key secrets are sealed under: the fingerprint tells keys apart and nothing else about them. One row, null
-- until a key was noted; nodes of earlier versions neither read nor write it.
create table admin.master_key (
    no integer primary key default 1 check (no = 1),
    fingerprint bytea check (length(fingerprint) = 16)
);

insert into admin.master_key default values;
