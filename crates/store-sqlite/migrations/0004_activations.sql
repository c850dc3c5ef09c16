-- Whether an endpoint was active as of a revision: a 410 that lands late must not disable what was activated since.
-- Revisions from before this file count as active, so that a 410 to one of them disables, as it did then.
alter table endpoint_revisions add column is_active integer not null default 1 check (is_active in (0, 1));
