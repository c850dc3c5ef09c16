select distinct category from event_types order by category
