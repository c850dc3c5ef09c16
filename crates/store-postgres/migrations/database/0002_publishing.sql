-- The rules of publishing from SQL, once for all tenants; each tenant has `publish_event` and `record_event` of its own
-- above them. They are the rules of `EventDraft::validate`, in the same words as far as words go; one table of cases
-- holds both to that (`tests/publish_event`). Of several faults the first is named.
--
-- A refusal has one of these states, and where an argument is at fault, its name in the error's field COLUMN:
--
--   22004 null_value_not_allowed          event_type or event_data is null
--   22023 invalid_parameter_value         any other argument breaks a rule; the message names argument, fault and limit
--   22003 numeric_value_out_of_range      a guarded publish to an aggregate that has reached its last version
--   23505 unique_violation                an event with this id and other content was published; DETAIL: what differs
--   40001 serialization_failure           expected_version is not the newest; DETAIL: `newest_version=<n>`
--   55000 object_not_in_prerequisite_state  the catalogue has the type disabled, or the schema is no tenant's
--
-- Text that is no JSON at all never comes here: the argument's type refuses it, with 22P02, and with 54001 what is
-- nested so deep that reading it would exhaust the server's stack.
--
-- Nobody but the owner may call what is in this file; the tenants' functions run as the owner. These functions are
-- parsed now, or name nothing outside of `pg_catalog`, or are reached with a fixed search path only. Backslashes stand
-- in `E''` alone, so that no session's `standard_conforming_strings` changes what a rule says.

do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'the database''s encoding must be UTF8, it is ' || current_setting('server_encoding'),
            hint = 'Create the database with: create database … encoding ''UTF8'' template template0';
    end if;
end
$$;

-- A UUIDv7 of this instant: 48 bits of Unix milliseconds, then what is random of a UUIDv4, whose version (4) becomes 7
-- with two more bits set.
create function admin.new_uuid_v7(at timestamptz) returns uuid
language sql volatile
return encode(
    set_bit(
        set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                placing substring(int8send(floor(extract(epoch from at) * 1000)::bigint) from 3)
                from 1 for 6
            ),
            52, 1
        ),
        53, 1
    ),
    'hex'
)::uuid;

-- The time in a UUIDv7, in Unix milliseconds; null for any other UUID.
create function admin.uuid_v7_millis(id uuid) returns bigint
language sql immutable
return case
    when substr(id::text, 15, 1) = '7' and substr(id::text, 20, 1) in ('8', '9', 'a', 'b')
        then ('x' || left(id::text, 8) || substr(id::text, 10, 4))::bit(48)::bigint
end;

-- Of the texts that are valid JSON, those that are an object of at most 10 levels.
--
-- So bounded a depth is a regular language: a level is what is neither bracket nor string, strings, and levels one
-- deeper. Written without captures, back references and constraints, it is decided by a finite automaton, in one walk
-- over the text whatever the text is: 5 µs for 1 KiB, 0.4 ms for 100 KiB.
create function admin.event_object_pattern() returns text
language sql immutable
return E'^[ \\t\\n\\r]*[{](?:[^]["{}]|"(?:[^"\\\\]|\\\\.)*"'
    || repeat(E'|[[{](?:[^]["{}]|"(?:[^"\\\\]|\\\\.)*"', 9)
    || repeat(')*[]}]', 10)
    || E'[ \\t\\n\\r]*$';

-- Of the texts that are valid JSON, those without lone surrogates: an escape of the range D800…DBFF is followed by one
-- of DC00…DFFF, which stands nowhere else. Decided in the same way. A pattern of its own, because most texts have no
-- such escapes, and because the automaton of both would not stay small.
create function admin.paired_surrogates_pattern() returns text
language sql immutable
return E'^(?:[^\\\\]|\\\\[^u]|\\\\u[^dD]|\\\\u[dD][0-7]|\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F])*$';

-- Refuses an argument.
create function admin.refuse(argument text, fault text) returns void
language plpgsql immutable
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = argument || ' ' || fault,
        column = argument;
end
$$;

-- The text of a JSON object that is within limits; anything else but null is refused.
--
-- This and `check_event` return a value, so that PL/pgSQL calls them in an assignment: that costs a seventh of PERFORM.
create function admin.checked_json_object(argument text, value json, bytes_max integer) returns text
language plpgsql immutable
as $$
declare
    value_text constant text collate "C" := value::text;
begin
    if octet_length(value_text) > bytes_max then
        perform admin.refuse(
            argument, format('is %s bytes long, the limit is %s', octet_length(value_text), bytes_max));
    end if;
    if value_text !~ admin.event_object_pattern() then
        perform admin.refuse(argument, case
            when json_typeof(value) <> 'object' then 'must be a JSON object'
            else 'is not acceptable JSON: nested deeper than 10 levels'
        end);
    end if;
    if strpos(value_text, E'\\u') > 0 and value_text !~ admin.paired_surrogates_pattern() then
        perform admin.refuse(argument, 'is not acceptable JSON: lone surrogate in a string');
    end if;
    return value_text;
end
$$;

-- What is wrong with an event type.
create function admin.event_type_fault(event_type text) returns text
language plpgsql immutable
as $$
declare
    chars integer := char_length(event_type);
    dots integer := chars - char_length(replace(event_type collate "C", '.', ''));
    part text;
    name text;
    found_character text;
begin
    if chars > 100 then
        return format('has %s characters, at most 100 are allowed', chars);
    end if;
    if dots <> 1 then
        return format('must be `category.action` with exactly one dot, found %s', dots);
    end if;
    for name, part in
        values ('category', split_part(event_type, '.', 1)), ('action', split_part(event_type, '.', 2))
    loop
        found_character := substring(part collate "C" from '^[^a-z]');
        if part = '' then
            return format('is malformed: %s is empty', name);
        elsif found_character is not null then
            return format('is malformed: %s must begin with a letter a-z, found ''%s''', name, found_character);
        end if;
        found_character := substring(part collate "C" from '[^a-z0-9_]');
        if found_character is not null then
            return format(
                'is malformed: %s may contain a-z, 0-9 and _ only, found ''%s''', name, found_character);
        elsif length(part) > 50 then
            return format('is malformed: %s has %s characters, at most 50 are allowed', name, length(part));
        end if;
    end loop;
end
$$;

-- An aggregate type in its one spelling. U+212A (8490), the sign of the kelvin, is the one character beyond ASCII whose
-- lower case is a letter of a-z.
create function admin.normal_aggregate_type(aggregate_type text) returns text
language sql immutable
return lower(replace(aggregate_type, chr(8490), 'k') collate "C");

-- True of an event that keeps every rule which needs no table; any other is refused. Of the JSON arguments,
-- `checked_json_object` has judged all but whether `event_data` is there. `aggregate_type` is in its one spelling, `at`
-- is now.
create function admin.check_event(
    event_type text,
    event_data text,
    id uuid,
    event_name text,
    aggregate_id uuid,
    aggregate_type text,
    aggregate_version bigint,
    expected_version bigint,
    occurred_at timestamptz,
    at timestamptz
) returns boolean
language plpgsql immutable
as $$
declare
    id_millis bigint;
    at_millis bigint;
begin
    if event_type is null or event_data is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = case when event_type is null then 'event_type' else 'event_data' end || ' is required',
            column = case when event_type is null then 'event_type' else 'event_data' end;
    end if;
    if octet_length(event_type) > 100
        or (event_type collate "C") !~ '^[a-z][a-z0-9_]{0,49}[.][a-z][a-z0-9_]{0,49}$'
    then
        perform admin.refuse('event_type', admin.event_type_fault(event_type));
    end if;
    if char_length(event_name) > 255 then
        perform admin.refuse(
            'event_name', format('is %s characters long, the limit is 255', char_length(event_name)));
    end if;
    if char_length(aggregate_type) > 100 then
        perform admin.refuse(
            'aggregate_type', format('is %s characters long, the limit is 100', char_length(aggregate_type)));
    elsif (aggregate_type collate "C") !~ '^[a-z][a-z0-9_]*$' then
        perform admin.refuse('aggregate_type', 'must be a letter, then letters, digits or underscores');
    end if;
    if aggregate_version not between 1 and 999999 then
        perform admin.refuse('aggregate_version', 'must be between 1 and 999999');
    end if;
    if expected_version is not null then
        if expected_version not between 0 and 999998 then
            perform admin.refuse('expected_version', 'must be between 0 and 999998');
        elsif aggregate_version is not null then
            perform admin.refuse('aggregate_version',
                'must be absent where expected_version is given: the event gets the next version');
        elsif aggregate_id is null then
            perform admin.refuse('aggregate_id', 'is required where expected_version is given');
        end if;
    end if;
    if id is not null then
        id_millis := admin.uuid_v7_millis(id);
        at_millis := floor(extract(epoch from at) * 1000);
        -- Null, of another version, is not within.
        if (id_millis between at_millis - 90::bigint * 86400000 and at_millis + 5 * 60000) is not true then
            perform admin.refuse('id', 'must be a UUIDv7 at most 5 minutes ahead and not older than 90 days');
        end if;
    end if;
    -- What comes later has no RFC 3339 form in every offset.
    if occurred_at >= '9999-12-30 22:00:01+00' or occurred_at < '0001-01-01 00:00:00+00' then
        perform admin.refuse('occurred_at', 'must be a time from the year 1 on and before 9999-12-30T22:00:01Z');
    end if;
    return true;
end
$$;

-- The fields, by name, that were given and are not what is stored; the empty string if none.
create function admin.differing_fields(given jsonb, stored jsonb) returns text
language sql immutable
return (
    select coalesce(string_agg(field.key, ', ' order by field.key), '')
    from jsonb_each_text(jsonb_strip_nulls(given)) as field
    where field.value is distinct from stored ->> field.key
);

revoke all on function admin.new_uuid_v7, admin.uuid_v7_millis, admin.event_object_pattern,
    admin.paired_surrogates_pattern, admin.refuse, admin.checked_json_object, admin.event_type_fault,
    admin.normal_aggregate_type, admin.check_event, admin.differing_fields
from public;
