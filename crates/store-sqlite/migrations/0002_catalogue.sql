-- Event types, endpoints and subscriptions.
--
-- Endpoints and subscriptions are deleted softly, so that whoever follows the changes learns of deletions too.

-- Counts the changes to endpoints and subscriptions. Each change takes the next number and writes it to exactly one
-- row (`changed`), so a list of changes can be cut anywhere.
create table catalogue (
    only integer primary key check (only = 1),
    version integer not null
) strict;

insert into catalogue (only, version) values (1, 0);

create table event_types (
    no integer primary key,
    id blob not null unique check (length(id) = 16),
    revision integer not null,
    event_type text not null unique,
    category text not null,
    display_name text not null,
    description text,
    is_enabled integer not null check (is_enabled in (0, 1)),
    example_payload text,
    created_at integer not null,
    updated_at integer not null
) strict;

create index event_types_by_category on event_types (category);

create table endpoints (
    -- What deliveries name an endpoint by: shorter than its id. Autoincrement, so that no number is used twice.
    no integer primary key autoincrement,
    id blob not null unique check (length(id) = 16),
    revision integer not null,
    name text not null,
    description text,
    endpoint_url text not null,
    http_method text not null check (http_method in ('POST', 'PUT', 'PATCH')),
    signature_header text not null,
    -- JSON: [[name, value], …] in the order given.
    custom_headers text not null,
    timeout_seconds integer not null,
    follow_redirects integer not null check (follow_redirects in (0, 1)),
    verify_ssl integer not null check (verify_ssl in (0, 1)),
    max_retry_attempts integer not null,
    retry_backoff_seconds integer not null,
    retry_backoff_multiplier real not null,
    is_active integer not null check (is_active in (0, 1)),
    is_verified integer not null check (is_verified in (0, 1)),
    disabled_reason text,
    created_by_user_id blob check (length(created_by_user_id) = 16),
    context_id blob check (length(context_id) = 16),
    created_at integer not null,
    updated_at integer not null,
    last_used_at integer,
    verified_at integer,
    changed integer not null unique,
    deleted_at integer
) strict;

create table endpoint_secrets (
    endpoint_no integer not null,
    position integer not null,
    sealed blob not null,
    expires_at integer,
    primary key (endpoint_no, position)
) strict, without rowid;

-- What requests of a revision looked like, secrets redacted. An attempt names the revision it was made by, and so
-- need not repeat URL, method and headers.
create table endpoint_revisions (
    endpoint_no integer not null,
    revision integer not null,
    endpoint_url text not null,
    http_method text not null,
    signature_header text not null,
    custom_headers_redacted text not null,
    primary key (endpoint_no, revision)
) strict, without rowid;

create table subscriptions (
    no integer primary key autoincrement,
    id blob not null unique check (length(id) = 16),
    revision integer not null,
    endpoint_no integer not null,
    pattern text not null,
    filter text not null,
    is_active integer not null check (is_active in (0, 1)),
    context_id blob check (length(context_id) = 16),
    subscription_name text,
    description text,
    created_at integer not null,
    updated_at integer not null,
    last_triggered_at integer,
    changed integer not null unique,
    deleted_at integer
) strict;

create index subscriptions_by_endpoint on subscriptions (endpoint_no);
