-- Writes without changing anything: whether the file can be written.
update store_state set openings = openings where only = 1
