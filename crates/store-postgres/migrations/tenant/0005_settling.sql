-- A settled delivery's row is written anew beside the old one. Pages that are half full have room for all of theirs; with
-- 60 of 100 filled, one in five found none, and was written elsewhere, into all three indexes. Pages that are there stay
-- as they are.
alter table tenant.deliveries set (fillfactor = 50);
