-- Read once, when the store is opened.
select schema from tenants
