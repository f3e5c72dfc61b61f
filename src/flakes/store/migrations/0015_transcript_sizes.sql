-- How large the transcript of each attempt is, for what is kept of it; nothing is counted of earlier ones.
create table transcript_sizes (
    assignment_id   text collate "C" primary key,
    size_bytes      bigint not null,
    dropped_entries bigint not null default 0
) with (fillfactor = 70);
