-- Whether tending has something to finish.
select exists (select 1 from cancel_requests) or exists (select 1 from endpoint_removals)
