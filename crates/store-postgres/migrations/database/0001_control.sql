-- What a whole database has once, in schema `admin`, beside the platform's own tables: the list of tenants, keys, the
-- nodes at work, and what all tenants owe.
--
-- What is owed lies in one place for all tenants, so that an idle tenant costs nothing: nobody asks a thousand schemas.
-- No foreign keys: every reference is resolved in the statement that writes it.

create table admin.tenants (
    -- What other rows name a tenant by: shorter than its schema.
    no integer generated always as identity primary key,
    schema_name text not null unique
        check (schema_name = 'admin' or schema_name ~ '^(tenant|shared)_[a-z][a-z0-9_]{0,47}$'),
    name text,
    -- Counts the changes to the tenant's endpoints and subscriptions. It is here so that one claim learns the counts
    -- of all tenants it brings work of.
    catalogue_version bigint not null default 0,
    event_types_seeded boolean not null default false,
    created_at timestamptz not null
);

create table admin.api_keys (
    no bigint generated always as identity primary key,
    id uuid not null unique,
    -- SHA-256 of the key, which itself is nowhere.
    digest bytea not null unique check (length(digest) = 32),
    tenant_no integer not null,
    name text not null,
    context_id uuid,
    scopes text[] not null,
    created_at timestamptz not null,
    expires_at timestamptz,
    last_used_at timestamptz
);

create index api_keys_by_tenant on admin.api_keys (tenant_no);

-- One row per running process that claims work. It beats by the database's clock, the only one that all nodes share;
-- whoever finds one that stopped beating removes it and frees what it had claimed. Never updated but for the beat, so
-- that claims, which lock it against removal, and beats do not wait for each other.
create table admin.sessions (
    no bigint generated always as identity primary key,
    name text not null,
    started_at timestamptz not null default clock_timestamp(),
    beat_at timestamptz not null default clock_timestamp()
);

-- One row per event whose dispatch is owed, written in the publisher's transaction and removed with the dispatch.
--
-- Keyed by the transaction that wrote it. A claim remembers up to which transaction it has seen everything and which
-- ones were still running then; the next one looks only at those and at younger ones. So rows that are dead but cannot
-- be removed yet, because somewhere a transaction stays open, are not walked over again and again, and a transaction
-- that commits late is not missed.
create table admin.owed_dispatches (
    xid xid8 not null default pg_current_xact_id(),
    no bigint generated always as identity,
    tenant_no integer not null,
    event_id uuid not null,
    -- Whose it is until when; all three or none. No index has them: taking a lease is an update in place. The token is
    -- the claiming transaction's id: no row is claimed twice by one transaction, and no id is used twice.
    lease_token bigint,
    leased_by bigint,
    leased_until timestamptz,
    primary key (xid, no),
    check ((lease_token is null) = (leased_by is null) and (lease_token is null) = (leased_until is null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- One row per delivery that is not over, in the order in which its endpoint's are claimed. `due_at` is the delivery's.
create table admin.delivery_queue (
    tenant_no integer not null,
    endpoint_id uuid not null,
    due_at timestamptz not null,
    delivery_id uuid not null,
    event_id uuid not null,
    -- A cancellation waits for the attempt in flight: not to be claimed again.
    is_ending boolean not null default false,
    lease_token bigint,
    leased_by bigint,
    leased_until timestamptz,
    primary key (tenant_no, endpoint_id, due_at, delivery_id),
    check ((lease_token is null) = (leased_by is null) and (lease_token is null) = (leased_until is null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Endpoints that are inactive or deleted: what they are owed waits.
create table admin.held_endpoints (
    tenant_no integer not null,
    endpoint_id uuid not null,
    primary key (tenant_no, endpoint_id)
);

-- Deliveries with `cancel_requested`: a handful, so that finishing them never searches.
create table admin.cancel_requests (
    tenant_no integer not null,
    delivery_id uuid not null,
    primary key (tenant_no, delivery_id)
);

-- Deleted endpoints whose deliveries are not all cancelled yet.
create table admin.endpoint_removals (
    tenant_no integer not null,
    endpoint_id uuid not null,
    primary key (tenant_no, endpoint_id)
);
