-- Publishing from SQL, in the caller's transaction: if it commits, the event will be delivered; if it rolls back,
-- nothing happened. The rules are in `admin`, with the states of refusals.
--
-- A role that shall publish needs USAGE of this schema and EXECUTE of `publish_event`, and nothing else: the functions
-- run as their owner. So what they do must not depend on the caller: the search path is fixed, every name outside of
-- `pg_catalog` is qualified, and texts have the columns' collation, not that of the caller's arguments.

-- Stores an event together with the row that owes its dispatch.
--
-- Its time is `clock_timestamp()`, not `now()`: a transaction may have been open for hours, and its events would all
-- seem to have been made when it began.
create function tenant.record_event(
    event_type text,
    event_data json,
    inout id uuid default null,
    event_name text default null,
    aggregate_id uuid default null,
    aggregate_type text default null,
    inout aggregate_version bigint default null,
    expected_version bigint default null,
    event_metadata json default null,
    correlation_id uuid default null,
    causation_id uuid default null,
    triggered_by_user_id uuid default null,
    context_id uuid default null,
    occurred_at timestamptz default null,
    out created_at timestamptz,
    out is_duplicate boolean
)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
-- Names that arguments share with columns are columns; the arguments' are qualified.
#variable_conflict use_column
declare
    given_id constant uuid := id;
    given_version constant bigint := aggregate_version;
    new_type constant text collate "default" := event_type;
    new_name constant text collate "default" := event_name;
    new_data constant text collate "default" := admin.checked_json_object('event_data', event_data, 100 * 1024);
    new_metadata constant text collate "default" :=
        admin.checked_json_object('event_metadata', event_metadata, 50 * 1024);
    given_aggregate_type constant text collate "default" := admin.normal_aggregate_type(aggregate_type);
    is_valid boolean;
    new_aggregate_id uuid;
    new_aggregate_type text collate "default";
    newest bigint;
    differing text collate "default";
    stored tenant.events;
begin
    created_at := clock_timestamp();
    is_valid := admin.check_event(
        new_type, new_data, given_id, new_name, aggregate_id, given_aggregate_type, given_version, expected_version,
        occurred_at, created_at
    );
    id := coalesce(given_id, admin.new_uuid_v7(created_at));
    is_duplicate := false;
    new_aggregate_id := coalesce(aggregate_id, id);
    new_aggregate_type := coalesce(given_aggregate_type, split_part(new_type, '.', 1));

    -- Once; again where the same event was published meanwhile, by somebody we had to wait for.
    loop
        if given_id is not null then
            select event.* into stored from tenant.events as event where event.id = given_id;
            if found then
                differing := admin.differing_fields(
                    jsonb_build_object(
                        'event_type', new_type,
                        'event_name', new_name,
                        'aggregate_id', record_event.aggregate_id,
                        'aggregate_type', given_aggregate_type,
                        'aggregate_version', coalesce(given_version, expected_version + 1),
                        'correlation_id', record_event.correlation_id,
                        'causation_id', record_event.causation_id,
                        'triggered_by_user_id', record_event.triggered_by_user_id,
                        'context_id', record_event.context_id,
                        'occurred_at', record_event.occurred_at,
                        'event_metadata', new_metadata,
                        'event_data', new_data
                    ),
                    to_jsonb(stored)
                );
                if differing <> '' then
                    raise exception using
                        errcode = 'unique_violation',
                        message = format('an event with id %s and other content was published before', given_id),
                        detail = 'differing: ' || differing,
                        column = 'id';
                end if;
                aggregate_version := stored.aggregate_version;
                created_at := stored.created_at;
                is_duplicate := true;
                return;
            end if;
        end if;

        if expected_version is not null then
            -- Guarded publishes to an aggregate wait here for each other. What was committed meanwhile is seen by the
            -- next statement, not by this one.
            select head.version into newest from tenant.stream_heads as head
            where head.aggregate_id = new_aggregate_id and head.aggregate_type = new_aggregate_type
            for update;
            select greatest(newest, max(event.aggregate_version), 0) into newest from tenant.events as event
            where event.aggregate_id = new_aggregate_id and event.aggregate_type = new_aggregate_type;
            if newest <> expected_version then
                -- Perhaps by this very publish, sent twice at once.
                if exists (select from tenant.events as event where event.id = given_id) then
                    continue;
                elsif newest >= 999999 then
                    raise exception using
                        errcode = 'numeric_value_out_of_range',
                        message = 'the aggregate has reached its last version, 999999',
                        column = 'expected_version';
                end if;
                raise exception using
                    errcode = 'serialization_failure',
                    message = format('the aggregate''s newest version is %s, not the expected %s',
                        newest, expected_version),
                    detail = 'newest_version=' || newest,
                    column = 'expected_version';
            end if;
            insert into tenant.stream_heads as head (aggregate_id, aggregate_type, version)
            values (new_aggregate_id, new_aggregate_type, expected_version + 1)
            on conflict (aggregate_id, aggregate_type) do update set version = excluded.version
            where head.version < excluded.version;
            -- The aggregate had no head to wait for, and somebody else made it.
            continue when not found;
        end if;

        aggregate_version := coalesce(given_version, expected_version + 1, 1);
        with stored as (
            insert into tenant.events (
                id, event_type, event_name, aggregate_id, aggregate_type, aggregate_version, correlation_id,
                causation_id, triggered_by_user_id, context_id, occurred_at, created_at, event_metadata, event_data
            )
            select
                record_event.id, new_type, new_name, new_aggregate_id, new_aggregate_type,
                record_event.aggregate_version, record_event.correlation_id, record_event.causation_id,
                record_event.triggered_by_user_id, record_event.context_id,
                coalesce(record_event.occurred_at, record_event.created_at), record_event.created_at,
                coalesce(new_metadata, '{}'), new_data
            where not exists (
                select from tenant.event_types as entry where entry.event_type = new_type and not entry.is_enabled
            )
            on conflict (id) do nothing
            returning id
        )
        insert into admin.owed_dispatches (tenant_no, event_id)
        select own.no, stored.id from stored cross join admin.tenants as own
        where own.schema_name = rtrim('tenant.', '.');
        exit when found;

        if exists (select from tenant.event_types as entry where entry.event_type = new_type and not entry.is_enabled)
        then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = format('event_type %s is disabled in the catalogue', new_type),
                column = 'event_type';
        elsif not exists (select from admin.tenants as own where own.schema_name = rtrim('tenant.', '.')) then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = format('the schema %s is no tenant''s', rtrim('tenant.', '.'));
        end if;
    end loop;
end
$$;

-- Publishes an event and returns its id, of a repeated publish the first one's.
create function tenant.publish_event(
    event_type text,
    event_data json,
    id uuid default null,
    event_name text default null,
    aggregate_id uuid default null,
    aggregate_type text default null,
    aggregate_version bigint default null,
    expected_version bigint default null,
    event_metadata json default null,
    correlation_id uuid default null,
    causation_id uuid default null,
    triggered_by_user_id uuid default null,
    context_id uuid default null,
    occurred_at timestamptz default null
) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (tenant.record_event(
        event_type, event_data, id, event_name, aggregate_id, aggregate_type, aggregate_version, expected_version,
        event_metadata, correlation_id, causation_id, triggered_by_user_id, context_id, occurred_at
    )).id;
end
$$;

revoke all on function tenant.record_event, tenant.publish_event from public;
