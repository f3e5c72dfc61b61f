-- Artifacts, their unfinished uploads, and which blobs may be garbage.
--
-- A blob is noted in `blob_notes` before it is put, and again when something that refers to it goes away.
-- A note that is due is looked at once: the blob is deleted unless something refers to it (the statement
-- that decides is in `store.garbage`). So no blob is lost while it is in use, and none is forgotten.

create table artifacts (
    artifact_id text collate "C" primary key,
    owner_id    text collate "C" not null references users on delete cascade,
    run_id      text collate "C" references runs on delete cascade,
    task_id     text collate "C",                -- of that run, so it goes with it
    kind        text not null,
    name        text,
    media_type  text not null,
    state       text not null check (state in ('pending', 'ready')),
    digest      text collate "C",                -- announced, then the content's own
    size_bytes  bigint,                          -- announced, then the content's own
    metadata    json not null default '{}',
    created_at  timestamptz not null default now(),
    ready_at    timestamptz,
    check (state = 'pending' or (digest is not null and size_bytes is not null))
);
create index artifacts_of_owner on artifacts (owner_id, artifact_id desc);
create index artifacts_of_run on artifacts (run_id, artifact_id desc) where run_id is not null;
create index artifacts_of_task on artifacts (task_id, artifact_id desc) where task_id is not null;
create index artifacts_by_digest on artifacts (digest) where digest is not null;

-- How far the content of a pending artifact has come. Bytes up to `received_bytes` are durable.
create table artifact_uploads (
    artifact_id    text collate "C" primary key references artifacts on delete cascade,
    generation     text not null,                  -- another one each time it starts from the beginning
    received_bytes bigint not null default 0,
    parts          text[] not null default '{}',   -- keys in the blob store, where it is no directory
    touched_at     timestamptz not null default now()
);
create index artifact_uploads_touched on artifact_uploads (touched_at);

create table blob_notes (
    digest text collate "C" primary key,
    due_at timestamptz not null
);
create index blob_notes_due on blob_notes (due_at);

-- Digests of the outputs that a result keeps as blobs; the short ones are in the result itself.
create function output_blobs(result json) returns text[] language sql immutable parallel safe as $$
    select coalesce(array_agg(o.value ->> 'digest'), '{}')
    from json_each(result -> 'outputs') o
    where o.value -> 'text' is null and o.value ->> 'digest' is not null
$$;

-- Results cannot be written while this is built: seconds for a million of them, once. A migration is one
-- transaction, in which `concurrently` is not to be had.
-- squawk-ignore require-concurrent-index-creation
create index task_results_blobs on task_results using gin (output_blobs(result))
    where (result -> 'outputs') is not null;

create function note_blobs_of_results() returns trigger language plpgsql as $$
begin
    insert into blob_notes (digest, due_at)
    select distinct d, now() + interval '1 hour'
    from gone, unnest(output_blobs(gone.result)) d where (gone.result -> 'outputs') is not null
    order by d
    on conflict (digest) do update set due_at = greatest(blob_notes.due_at, excluded.due_at);
    return null;
end $$;

create trigger note_blobs_of_deleted_results after delete on task_results
    referencing old table as gone for each statement execute function note_blobs_of_results();

create trigger note_blobs_of_replaced_results after update on task_results
    referencing old table as gone for each statement execute function note_blobs_of_results();

create function note_blobs_of_artifacts() returns trigger language plpgsql as $$
begin
    insert into blob_notes (digest, due_at)
    select distinct digest, now() from gone where state = 'ready'
    order by digest
    on conflict (digest) do update set due_at = greatest(blob_notes.due_at, excluded.due_at);
    return null;
end $$;

create trigger note_blobs_of_deleted_artifacts after delete on artifacts
    referencing old table as gone for each statement execute function note_blobs_of_artifacts();
