"""Publishes events as a Python program would: with psycopg, inside of its own transactions.

usage: publish.py CONNECTION_URL SCHEMA

Says on standard output, as one JSON object, which ids were published in transactions that committed and in ones that
rolled back; the test looks them up. Fails where an answer is not the documented one.
"""

import json
import sys
import uuid

import psycopg
from psycopg import sql
from psycopg.types.json import Json, Jsonb


def refusal(connection, call, arguments):
    """The refusal of a publish, in a savepoint, so that the transaction goes on."""
    try:
        with connection.transaction():
            connection.execute(call, arguments)
    except psycopg.Error as error:
        return error
    raise AssertionError(f"{arguments} was not refused")


def main(url, schema):
    function = sql.Identifier(schema, "publish_event")
    two = sql.SQL("select {}(%s, %s)").format(function)
    committed, rolled_back = [], []

    with psycopg.connect(url) as connection:
        publish = lambda call, arguments: connection.execute(call, arguments).fetchone()[0]

        # Arguments in order: parameters without a type, psycopg's wrapper for json, a value of type jsonb cast by the
        # caller.
        committed.append(publish(two, ["order.placed", '{"total": 1.50}']))
        committed.append(publish(two, ["order.placed", Json({"total": 2})]))
        cast = sql.SQL("select {}(%s, %s::json)").format(function)
        committed.append(publish(cast, ["order.placed", Jsonb({"total": 3})]))

        # Named arguments, together with a row of the program's own.
        connection.execute("create temporary table orders (id uuid, event_id uuid)")
        order = uuid.uuid4()
        named = sql.SQL(
            "insert into orders values (%(order)s, {}('order.placed', %(data)s,"
            " aggregate_id => %(order)s, expected_version => %(version)s, context_id => %(context)s,"
            " event_metadata => %(metadata)s)) returning event_id"
        ).format(function)
        arguments = {
            "order": order,
            "data": Json({"total": 4}),
            "version": 0,
            "context": uuid.uuid4(),
            "metadata": Json({"source": "shop"}),
        }
        committed.append(publish(named, arguments))
        connection.commit()

        # A stale version is a conflict; its newest one is there for programs. The transaction can go on, or roll back.
        stale = refusal(connection, named, arguments)
        assert isinstance(stale, psycopg.errors.SerializationFailure), stale
        assert stale.diag.message_detail == "newest_version=1", stale.diag.message_detail
        assert stale.diag.column_name == "expected_version", stale.diag.column_name
        committed.append(publish(named, {**arguments, "version": 1}))
        malformed = refusal(connection, two, ["Order.Placed", "{}"])
        assert isinstance(malformed, psycopg.errors.InvalidParameterValue), malformed
        assert malformed.diag.column_name == "event_type", malformed.diag.column_name
        connection.commit()

        # Publishing again is harmless.
        again = sql.SQL("select {}('order.paid', '{{}}', id => %s)").format(function)
        made = publish(sql.SQL("select {}('order.paid', '{{}}')").format(function), [])
        assert publish(again, [made]) == made
        connection.commit()
        assert publish(again, [made]) == made
        connection.rollback()
        committed.append(made)

        # What rolls back never happened, to a savepoint too.
        rolled_back.append(publish(two, ["order.placed", '{"total": 5}']))
        connection.rollback()
        with connection.transaction():
            committed.append(publish(two, ["order.placed", '{"total": 6}']))
            with connection.transaction(force_rollback=True):
                rolled_back.append(publish(two, ["order.placed", '{"total": 7}']))

    json.dump({"committed": list(map(str, committed)), "rolled_back": list(map(str, rolled_back))}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
