-- Event types, endpoints and subscriptions.
--
-- Endpoints and subscriptions are deleted softly, so that whoever follows the changes learns of deletions too. Each
-- change takes the tenant's next catalogue version and writes it to exactly one row (`changed`), so a list of changes
-- can be cut anywhere. `no` is the order in which rows were made: lists are newest first by it.

create table tenant.event_types (
    no bigint generated always as identity primary key,
    id uuid not null unique,
    revision integer not null,
    event_type text not null unique,
    category text not null,
    display_name text not null,
    description text,
    is_enabled boolean not null,
    example_payload text,
    created_at timestamptz not null,
    updated_at timestamptz not null
);

create index event_types_by_category on tenant.event_types (category);

create table tenant.endpoints (
    no bigint generated always as identity primary key,
    id uuid not null unique,
    revision integer not null,
    name text not null,
    description text,
    endpoint_url text not null,
    http_method text not null check (http_method in ('POST', 'PUT', 'PATCH')),
    signature_header text not null,
    -- JSON: [[name, value], …] in the order given.
    custom_headers text not null,
    timeout_seconds integer not null,
    follow_redirects boolean not null,
    verify_ssl boolean not null,
    max_retry_attempts integer not null,
    retry_backoff_seconds integer not null,
    retry_backoff_multiplier double precision not null,
    is_active boolean not null,
    is_verified boolean not null,
    disabled_reason text,
    created_by_user_id uuid,
    context_id uuid,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    last_used_at timestamptz,
    verified_at timestamptz,
    changed bigint not null unique,
    deleted_at timestamptz
);

create table tenant.endpoint_secrets (
    endpoint_id uuid not null,
    position integer not null,
    sealed bytea not null,
    expires_at timestamptz,
    primary key (endpoint_id, position)
);

-- What requests of a revision looked like, secrets redacted. An attempt names the revision it was made by, and so
-- need not repeat URL, method and headers.
create table tenant.endpoint_revisions (
    endpoint_id uuid not null,
    revision integer not null,
    endpoint_url text not null,
    http_method text not null,
    signature_header text not null,
    custom_headers_redacted text not null,
    -- As of this revision: a 410 that lands late must not disable what was activated since.
    is_active boolean not null,
    primary key (endpoint_id, revision)
);

create table tenant.subscriptions (
    no bigint generated always as identity primary key,
    id uuid not null unique,
    revision integer not null,
    endpoint_id uuid not null,
    pattern text not null,
    filter text not null,
    is_active boolean not null,
    context_id uuid,
    subscription_name text,
    description text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    last_triggered_at timestamptz,
    changed bigint not null unique,
    deleted_at timestamptz
);

create index subscriptions_by_endpoint on tenant.subscriptions (endpoint_id);
