-- One row once the view has caught up with a stream: from then on it serves, also while the bus is down. Up to here the store's
-- table of streams has held that.
create table caught_up (id integer primary key check (id = 1)) strict;
insert into caught_up (id) select 1 from stream;
