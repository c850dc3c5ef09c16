-- Two seeks; written as one aggregate over the table it would be a scan.
select (select min(seq) from events), (select max(seq) from events)
