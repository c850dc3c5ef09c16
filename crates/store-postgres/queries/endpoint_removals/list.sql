select tenant_no, endpoint_id
from admin.endpoint_removals
