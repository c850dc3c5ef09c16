-- Whether a tenant has a schema: an operator may have dropped it.
select to_regnamespace($1) is not null
