insert into events (
    seq, id, event_type, event_name, aggregate_id, aggregate_type, aggregate_version, correlation_id, causation_id,
    triggered_by_user_id, context_id, occurred_at, created_at, event_metadata, event_data
) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
