-- What agents said and did, what they spent, and messages that interrupt them.
-- Indexes and checks are made within the migration's transaction, on tables that are new or small.

-- Appended to and never rewritten: each byte of a transcript is stored once.
create table transcript_chunks (
    assignment_id text collate "C" not null,
    first_entry   integer not null,
    entry_count   integer not null,
    entries       json not null,
    primary key (assignment_id, first_entry)
);

-- What an attempt has spent so far, in all. A cost that nobody told is null.
create table attempt_usage (
    assignment_id  text collate "C" primary key,
    task_id        text collate "C" not null,
    run_id         text collate "C" not null,
    input_total    bigint not null,
    cached_read    bigint not null,
    cached_write   bigint not null,
    output         bigint not null,
    reasoning      bigint not null,
    cost_micro_usd bigint,
    calls          bigint not null
) with (fillfactor = 70);
create index attempt_usage_of_task on attempt_usage (task_id);
create index attempt_usage_of_run on attempt_usage (run_id);

-- squawk-ignore ban-drop-constraint
alter table messages drop constraint messages_mode_check;
alter table messages add constraint messages_mode_check
    check (mode in ('follow_up', 'steer', 'interrupt')) not valid;
-- squawk-ignore constraint-missing-not-valid
alter table messages validate constraint messages_mode_check;
