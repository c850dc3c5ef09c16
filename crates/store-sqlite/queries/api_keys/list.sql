select no from api_keys where no < :before order by no desc limit :limit
