-- phase: expand
-- up
-- Which third-party plugins this kernel is to run. Read and written by the kernel's administrator alone: what stands here is
-- code that every worker will load. The texts are compared byte by byte, so that their order hangs on no locale.

create domain pk.plugin_version as text collate "C" check (value ~ '^[!-~]{1,100}$');
create domain pk.plugin_digest as text collate "C" check (value ~ '^([0-9a-f]{64})?$');
create domain pk.plugin_distribution as text collate "C"
  check (value ~ '^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$' and length(value) <= 200);
create domain pk.plugin_target as text collate "C"
  check (value ~ '^[^[:cntrl:][:space:]:]+:[^[:cntrl:][:space:]:]+$' and length(value) <= 400);
create domain pk.plugin_requirement as text collate "C" check (value !~ '[[:cntrl:]]' and length(value) <= 2000);
revoke all on type pk.plugin_version, pk.plugin_digest, pk.plugin_distribution, pk.plugin_target, pk.plugin_requirement
  from public;

create table pk.plugin (
  id text collate "C" primary key
    constraint plugin_id check (id ~ '^(?!kernel\.)[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)+$' and length(id) <= 60),
  version pk.plugin_version not null,
  digest pk.plugin_digest not null,
  distribution pk.plugin_distribution not null,
  target pk.plugin_target not null,
  requirement pk.plugin_requirement not null,
  enabled boolean not null,
  -- It is being removed, and what becomes of its data then; a removal that was cut off is finished from this.
  leaving text collate "C" not null default '' check (leaving in ('', 'keep', 'export', 'purge')),
  -- What a rollback returns to.
  previous_version pk.plugin_version,
  previous_digest pk.plugin_digest,
  previous_distribution pk.plugin_distribution,
  previous_target pk.plugin_target,
  previous_requirement pk.plugin_requirement,
  changed_at timestamptz not null default now(),
  sequence bigint not null check (sequence > 0),
  constraint plugin_previous check (num_nulls(
    previous_version, previous_digest, previous_distribution, previous_target, previous_requirement) in (0, 5)));
revoke all on pk.plugin from public;

-- The newest row says how far the state has come, so the table is never empty; a few older ones are kept for operators, and
-- to recognize a change that is repeated because its answer was lost.
create table pk.plugin_change (
  sequence bigint primary key check (sequence >= 0),
  change_id text collate "C" not null unique check (change_id ~ '^[!-~]{1,100}$' or (change_id = '' and sequence = 0)),
  at timestamptz not null default now(),
  put text[] not null,
  dropped text[] not null);
revoke all on pk.plugin_change from public;
insert into pk.plugin_change (sequence, change_id, put, dropped) values (0, '', '{}', '{}');

-- down
drop table pk.plugin_change, pk.plugin;
drop domain pk.plugin_version, pk.plugin_digest, pk.plugin_distribution, pk.plugin_target, pk.plugin_requirement;
