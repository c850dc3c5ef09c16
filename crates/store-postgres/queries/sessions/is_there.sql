-- Whoever is about to remove it has it locked: then it is as good as gone.
select 1 from admin.sessions where no = $1 for key share
