-- An index entry ends with the number, so the order comes with it.
select no from api_keys where schema = :schema and no < :before order by no desc limit :limit
