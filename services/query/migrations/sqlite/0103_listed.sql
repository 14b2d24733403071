-- Whether the row has a ticket part. The indexes for lists named the ticket's revision for that, so each revision of a ticket wrote
-- all of them again. The condition of an index must be that of its statements, and no equality, for which SQLite may make
-- an index of its own.
alter table view add column listed integer not null default 0;
update view set listed = 1 where ticket_revision > 0;

drop index view_by_start;
drop index view_by_price;
drop index view_by_update;
drop index view_withdrawn;
drop index view_reserved;
drop index view_free;
drop index view_by_sequence;
create index view_by_start on view (start_time, ticket_id) where listed > 0;
create index view_by_price on view (discounted_units, discounted_nanos, ticket_id) where listed > 0;
create index view_by_update on view (update_time, ticket_id) where listed > 0;
create index view_withdrawn on view (start_time, ticket_id) where listed > 0 and withdrawn = 1;
create index view_reserved on view (start_time, ticket_id) where listed > 0 and withdrawn = 0 and holder is not null;
create index view_free on view (start_time, ticket_id, end_time) where listed > 0 and withdrawn = 0 and holder is null;
create index view_by_sequence on view (sequence) where listed > 0;
