select endpoint_no from endpoint_removals order by endpoint_no
