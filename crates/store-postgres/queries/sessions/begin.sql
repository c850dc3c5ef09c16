insert into admin.sessions (name)
values ($1)
returning no
