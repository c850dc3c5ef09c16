//! What is true of the tables whenever no statement is on its way, whatever happened before.

use crate::scene::Beside;

/// Each with a statement that counts what contradicts it, in one tenant.
const INVARIANTS: [(&str, &str); 14] = [
    (
        "a delivery that is not over has one row in the queue, and no other has",
        "select count(*)
         from (select * from tenant.deliveries where status in ('pending', 'retrying')) d
         full join (select * from admin.delivery_queue where tenant_no = $1) q
            on q.delivery_id = d.id and q.endpoint_id = d.endpoint_id and q.due_at = d.due_at
                and q.event_id = d.event_id
         where d.id is null or q.delivery_id is null",
    ),
    (
        "the queue has no delivery twice",
        "select count(*) - count(distinct delivery_id) from admin.delivery_queue where tenant_no = $1",
    ),
    (
        "a delivery whose cancellation waits is not to be claimed, and every other one is",
        "select count(*)
         from admin.delivery_queue q
         join tenant.deliveries d on d.id = q.delivery_id
         where q.tenant_no = $1 and q.is_ending <> (d.cancel_requested is not null)",
    ),
    (
        "a cancellation that waits is listed",
        "select count(*)
         from tenant.deliveries d
         where d.cancel_requested is not null and not exists (
            select from admin.cancel_requests r where r.tenant_no = $1 and r.delivery_id = d.id
         )",
    ),
    (
        "troubled is what is retrying, failed or cancelled",
        "select count(*)
         from (select * from tenant.deliveries where status in ('retrying', 'failed', 'cancelled')) d
         full join tenant.troubled_deliveries t
            on t.delivery_id = d.id and t.status = d.status and t.endpoint_id = d.endpoint_id
         where (d.id is null or t.delivery_id is null) and $1 > 0",
    ),
    (
        "attempts are numbered without a gap, and the delivery knows how many there were",
        "select count(*)
         from tenant.deliveries d
         left join lateral (
            select count(*) as attempts, max(a.attempt_number) as newest
            from tenant.attempts a
            where a.delivery_id = d.id
         ) a on true
         where (a.attempts <> d.current_attempt or coalesce(a.newest, 0) <> d.current_attempt) and $1 > 0",
    ),
    (
        "no attempt is without its delivery",
        "select count(*) from tenant.attempts a
         where not exists (select from tenant.deliveries d where d.id = a.delivery_id) and $1 > 0",
    ),
    (
        "a delivery succeeds with its last attempt, and only then",
        "select count(*)
         from tenant.deliveries d
         left join lateral (
            select count(*) filter (where a.status = 'success') as successes,
                bool_or(a.status = 'success' and a.attempt_number = d.current_attempt) as last_is_success
            from tenant.attempts a
            where a.delivery_id = d.id
         ) a on true
         where case d.status
            when 'success' then a.successes <> 1 or a.last_is_success is not true
            else a.successes <> 0
         end and $1 > 0",
    ),
    (
        "no more attempts were made than allowed",
        "select count(*) from tenant.deliveries where current_attempt > max_attempts and $1 > 0",
    ),
    (
        "an event owes its dispatch, or has deliveries, or is known to have none: one of the three",
        "select count(*)
         from tenant.events e
         where 1 <> (
            (select count(*) from admin.owed_dispatches o where o.tenant_no = $1 and o.event_id = e.id)
            + (exists (select from tenant.deliveries d where d.event_id = e.id))::integer
            + (exists (select from tenant.undelivered_events u where u.event_id = e.id))::integer
         )",
    ),
    (
        "nothing is owed of an event that is not there",
        "select (select count(*) from admin.owed_dispatches o
            where o.tenant_no = $1 and not exists (select from tenant.events e where e.id = o.event_id))
            + (select count(*) from tenant.deliveries d
            where not exists (select from tenant.events e where e.id = d.event_id))
            + (select count(*) from tenant.undelivered_events u
            where not exists (select from tenant.events e where e.id = u.event_id))",
    ),
    (
        "endpoints are held that are inactive or are being removed, and no others",
        "select count(*)
         from (select * from admin.held_endpoints where tenant_no = $1) h
         full join (
            select e.id from tenant.endpoints e
            where (not e.is_active and e.deleted_at is null) or exists (
                select from admin.endpoint_removals r where r.tenant_no = $1 and r.endpoint_id = e.id
            )
         ) e on e.id = h.endpoint_id
         where (h.endpoint_id is null or e.id is null)
            and not exists (select from tenant.endpoints gone where gone.id = h.endpoint_id
                and gone.deleted_at is not null)",
    ),
    (
        "what a deleted endpoint is still owed is being removed",
        "select count(*)
         from admin.delivery_queue q
         join tenant.endpoints e on e.id = q.endpoint_id and e.deleted_at is not null
         where q.tenant_no = $1 and not q.is_ending and not exists (
            select from admin.endpoint_removals r where r.tenant_no = $1 and r.endpoint_id = e.id
         )",
    ),
    (
        "every change of the catalogue has a number of its own, up to the tenant's",
        "select count(*) - count(distinct changed)
            + count(*) filter (where changed > (select catalogue_version from admin.tenants where no = $1))
         from (
            select changed from tenant.endpoints union all select changed from tenant.subscriptions
         ) c",
    ),
];

/// Checks every tenant.
pub(crate) async fn check(database: &Beside) {
    let tenants = database.query("select no, schema_name from admin.tenants", &[]).await.unwrap();
    for tenant in tenants {
        let (no, schema): (i32, &str) = (tenant.get(0), tenant.get(1));
        for (invariant, statement) in INVARIANTS {
            let statement = statement.replace("tenant.", &format!("{schema}."));
            let contradicting: i64 = database.query_one(&statement, &[&no]).await.unwrap().get(0);
            assert_eq!(contradicting, 0, "{schema}: {invariant}");
        }
    }
}
