-- Events that an operator has discarded, so that they are not parked again when the stream delivers them again: after a
-- republish, a restart of the consumer or a rebuild of a view.
create table discarded (
    event_id text primary key,
    discard_time integer not null
) strict, without rowid;
create index discarded_by_time on discarded (discard_time);
