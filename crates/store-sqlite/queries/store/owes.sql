-- Whether there is anything to do, beside deliveries, that nobody has to ask for.
select
    exists (select 1 from owed_dispatches)
    or exists (select 1 from cancel_requests)
    or exists (select 1 from endpoint_removals)
