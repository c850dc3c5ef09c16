select no from tenants where no < :before order by no desc limit :limit
