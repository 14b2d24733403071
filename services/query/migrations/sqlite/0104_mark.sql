-- Identifies the message at the sequence of a row, which the stream may assign again after it has lost its tail.
alter table view add column mark integer not null default 0;
