-- What harnesses did and what came of it, in order. Rows are added and never changed; large entries are blobs.

create table harness_journals (
    task_id    text collate "C" not null,
    position   integer not null,
    body       text,
    digest     text collate "C",
    size_bytes integer not null,
    created_at timestamptz not null default now(),
    primary key (task_id, position),
    check ((body is null) <> (digest is null))
);
create index harness_journals_blobs on harness_journals (digest) where digest is not null;

create function note_blobs_of_journals() returns trigger language plpgsql as $$
begin
    insert into blob_notes (digest, due_at)
    select distinct digest, now() from gone where digest is not null
    order by digest
    on conflict (digest) do update set due_at = greatest(blob_notes.due_at, excluded.due_at);
    return null;
end $$;

create trigger note_blobs_of_deleted_journals after delete on harness_journals
    referencing old table as gone for each statement execute function note_blobs_of_journals();
