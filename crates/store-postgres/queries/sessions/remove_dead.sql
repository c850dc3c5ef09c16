-- Those of whom nothing was heard for as long as a session may be silent. How long that was is measured by whoever
-- listens, for the database's clock may be set. Who has beaten since is not touched, and who is gone takes nobody
-- along.
delete from admin.sessions silent
using unnest($2::bigint[], $3::timestamptz[]) as heard (no, beat_at)
where silent.no = heard.no
  and heard.beat_at = coalesce(
      (
          select b.beat_at
          from admin.session_beats b
          where b.session_no = heard.no
          order by b.beat_no desc
          limit 1
      ),
      silent.beat_at
  )
  and exists (select 1 from admin.sessions me where me.no = $1)
returning silent.no, silent.name
