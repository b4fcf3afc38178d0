-- phase: expand
-- up
-- The plugin has a role of its own, and no table: every plugin's transactions write records, so they are in the kernel's
-- own schema.
comment on schema audit is 'records are in pk.record';
-- down
comment on schema audit is null;
