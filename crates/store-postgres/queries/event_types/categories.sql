-- In the order of their bytes, whatever the database's language.
select category
from tenant.event_types
group by category
order by category collate "C"
