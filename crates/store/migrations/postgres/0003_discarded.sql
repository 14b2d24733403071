-- Events that an operator has discarded, so that they are not parked again when the stream delivers them again: after a
-- republish or a restart of the consumer.
create table discarded (
    event_id text collate "C" primary key,
    discard_time timestamptz not null
);
create index discarded_by_time on discarded (discard_time);
