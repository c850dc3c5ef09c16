-- Newest first, deleted ones too: what was delivered to them stays their context's.
select no from endpoints where context_id = ?1 order by no desc
