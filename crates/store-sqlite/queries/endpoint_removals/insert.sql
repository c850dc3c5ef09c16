insert into endpoint_removals (endpoint_no) values (?1) on conflict do nothing
