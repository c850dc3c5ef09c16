-- The number of this opening: the upper part of every fencing token.
update store_state set openings = openings + 1 where only = 1 returning openings
