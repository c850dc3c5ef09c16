-- What the migrations applied ask of a program, by scope.
select scope, max(requires)
from admin.migrations
group by scope
