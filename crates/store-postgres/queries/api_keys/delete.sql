delete from admin.api_keys
where id = $1
