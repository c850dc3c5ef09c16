-- Counted where they lie: there are fewer kinds of attempts than attempts. Attempts repeat their delivery's bound, so
-- that older ones are not read either.
select a.response_time_ms, a.error_code, count(*)
from tenant.deliveries d
join tenant.attempts a on a.delivery_id = d.id
where d.endpoint_id = $1
    and d.id >= $2
    and d.created_at >= $3
    and a.delivery_id >= $2
group by a.response_time_ms, a.error_code
