delete from admin.sessions
where no = $1
