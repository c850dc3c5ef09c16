select tenant_no, delivery_id
from admin.cancel_requests
limit $1
