-- The list of tenants, and the keys to them.
--
-- Both are used in the admin file alone, and made in every file all the same: a version number then means the same
-- tables in all of them. In a tenant's file they stay empty.

create table tenants (
    no integer primary key,
    schema text not null unique,
    name text,
    created_at integer not null
) strict;

create table api_keys (
    no integer primary key,
    id blob not null unique check (length(id) = 16),
    -- SHA-256 of the key; the key itself is nowhere.
    digest blob not null unique check (length(digest) = 32),
    name text not null,
    schema text not null,
    context_id blob check (length(context_id) = 16),
    -- Their names, with a space between.
    scopes text not null,
    created_at integer not null,
    expires_at integer,
    last_used_at integer
) strict;

create index api_keys_by_schema on api_keys (schema);

-- A key may be bound to a context: its holder lists the deliveries of that context's endpoints.
create index endpoints_by_context on endpoints (context_id) where context_id is not null;
