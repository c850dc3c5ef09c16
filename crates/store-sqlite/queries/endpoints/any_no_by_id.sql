-- Deleted ones too: their deliveries can still be listed.
select no from endpoints where id = ?1
