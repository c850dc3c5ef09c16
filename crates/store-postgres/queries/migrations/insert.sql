insert into admin.migrations (scope, level, name, requires)
values ($1, $2, $3, $4)
