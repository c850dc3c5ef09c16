insert into cancel_requests (delivery_seq) values (?1) on conflict do nothing
