-- Runs are found by any part of their name or key.
-- The extension comes with PostgreSQL's own packages. Where it does not, or where it may not be installed, a search
-- reads the runs of the account instead: slower, with the same result.
-- Runs cannot be written while the index is built: about a second for 100,000 of them, once.
do $$
begin
    create extension if not exists pg_trgm;
    create index runs_search on runs using gin (name gin_trgm_ops, run_key gin_trgm_ops);
exception when insufficient_privilege or undefined_file or feature_not_supported or undefined_object then
    raise notice 'searching runs without an index: %', sqlerrm;
end $$;
