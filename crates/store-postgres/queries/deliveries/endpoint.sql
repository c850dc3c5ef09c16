select endpoint_id
from tenant.deliveries
where id = $1
