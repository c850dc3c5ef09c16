update endpoints set deleted_at = ?2, changed = ?3 where no = ?1
