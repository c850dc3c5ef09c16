-- Whoever works in the name of one of these has it locked against removal: what they commit is seen by what comes next.
select no
from admin.sessions
where no = any ($1::bigint[])
order by no
for update
