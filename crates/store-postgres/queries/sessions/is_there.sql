select 1 from admin.sessions where no = $1
