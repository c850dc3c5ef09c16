-- The writer's: no step waits for another connection half-way.
begin immediate
