-- Every change takes a number of its own.
update catalogue set version = version + 1 where only = 1 returning version
