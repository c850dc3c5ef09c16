select endpoint_url, http_method, signature_header, custom_headers_redacted
from endpoint_revisions
where endpoint_no = ?1 and revision <= ?2
order by revision desc
limit 1
