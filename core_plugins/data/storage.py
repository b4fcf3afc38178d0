"""Every SQL statement of the plugin but the kernel's own schema (`bootstrap/`). `%I` marks what PostgreSQL's own `format()`
quotes; names never reach a statement otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from plugin_api.errors import KernelBug

LOCK_KERNEL: Final = "select pg_advisory_xact_lock(8110742013371)"
"""Held while the kernel's own schema or roles are made; the same number in every version."""
LOCK_SCHEMA: Final = "select pg_advisory_xact_lock(8110742, hashtext($1))"

HAS_KERNEL: Final = "select to_regclass('pk.migrations') is not null"

FOUNDATION: Final = """
create schema pk;
revoke all on schema pk from public;
grant usage on schema pk to public;
create table pk.migrations (
  schema name not null,
  number integer not null,
  name text not null,
  sha256 text not null,
  phase text not null,
  applied_at timestamptz not null default now(),
  kernel_version text not null,
  primary key (schema, number));
create table pk.login (only_one boolean primary key default true check (only_one), password text not null);
revoke all on pk.migrations, pk.login from public;
do $$ begin
  if not exists (select from pg_roles where rolname = 'pk_app') then
    create role pk_app login noinherit;
  end if;
exception when duplicate_object or unique_violation then null;  -- the kernel of another database was faster
end $$;
"""
"""What has to be there before the kernel's first migration."""

GUARD: Final = """
do $$ begin
  if exists (select from pg_roles where rolname = 'pk_app'
      and (rolsuper or rolbypassrls or rolinherit or rolcreaterole or rolcreatedb or rolreplication or not rolcanlogin)) then
    alter role pk_app nosuperuser nobypassrls noinherit nocreaterole nocreatedb noreplication login;
  end if;
  if exists (select from unnest(array['search_path="$user", pk', 'jit=off', 'statement_timeout=60s',
      'idle_in_transaction_session_timeout=60s', 'client_connection_check_interval=1s']) wanted
      where not exists (select from pg_db_role_setting s join pg_roles r on r.oid = s.setrole and r.rolname = 'pk_app'
        join pg_database d on d.oid = s.setdatabase and d.datname = current_database() where wanted = any (s.setconfig))) then
    -- A role is named as its schema, so "$user" is the plugin's own and no statement is needed to set it.
    execute format('alter role pk_app in database %I set search_path = "$user", pk', current_database());
    execute format('alter role pk_app in database %I set jit = off', current_database());
    -- The kernel sets shorter ones; these bound what a stopped worker leaves behind.
    execute format('alter role pk_app in database %I set statement_timeout = %L', current_database(), '60s');
    execute format('alter role pk_app in database %I set idle_in_transaction_session_timeout = %L',
      current_database(), '60s');
    execute format('alter role pk_app in database %I set client_connection_check_interval = %L',
      current_database(), '1s');
  end if;
  if has_database_privilege('public', current_database(), 'temporary')
      or has_database_privilege('public', current_database(), 'connect') then
    execute format('revoke all on database %I from public', current_database());
  end if;
  execute format('grant connect on database %I to pk_app', current_database());
  if has_schema_privilege('public', 'public', 'create') then
    revoke create on schema public from public;
  end if;
end $$;
"""
"""Rights of the log-in and of everybody: put right at each start, written only where they differ."""

HARDEN: Final = r"""
do $$
declare
  closed record;
begin
  for closed in
    select p.oid::regprocedure as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'pg_catalog' and (
      -- Session-level advisory locks outlive the transaction and would meet the next borrower of the connection.
      p.proname in ('pg_advisory_lock', 'pg_advisory_lock_shared', 'pg_try_advisory_lock', 'pg_try_advisory_lock_shared',
      -- Other sessions: what they run, and ending them.
        'pg_stat_get_activity', 'pg_stat_get_backend_activity', 'pg_terminate_backend', 'pg_cancel_backend',
      -- Large objects know no tenant.
        'loread', 'lowrite')
      or p.proname like 'lo\_%')
      and has_function_privilege('public', p.oid, 'execute')
  loop
    execute format('revoke execute on function %s from public', closed.name);
  end loop;
  -- Code that comes with a statement (DO) could leave anything in the session; functions come with migrations.
  revoke usage on language plpgsql from public;
end $$;
"""
"""Takes from everybody what no plugin's statement needs."""

SET_PASSWORD: Final = (
    # The statement holds no password.
    "do $$ begin execute format('alter role pk_app password %L', current_setting('pk.password')); end $$"  # noqa: S105
)

PREPARE: Final = """
do $$
declare
  plugin name := current_setting('pk.plugin');
  keeper name := current_setting('pk.keeper');
begin
  if not exists (select from pg_roles where rolname = plugin) then
    execute format('create role %I nologin nosuperuser nobypassrls noinherit nocreaterole nocreatedb', plugin);
  end if;
  if not exists (select from pg_roles where rolname = keeper) then
    execute format('create role %I nologin nosuperuser nobypassrls noinherit nocreaterole nocreatedb', keeper);
  end if;
  execute format('grant %I to pk_app with inherit false, set true', plugin);
  execute format('create schema if not exists %I authorization %I', plugin, keeper);
  execute format('revoke all on schema %I from public', plugin);
  execute format('grant usage on schema %I to %I', plugin, plugin);
  execute format('alter default privileges for role %I revoke execute on functions from public', keeper);
  execute format('alter default privileges for role %I revoke usage on types from public', keeper);
  execute format('grant usage on language plpgsql to %I', keeper);
  execute format('grant execute on function pk.protect(regclass) to %I', keeper);
end $$;
"""

SETTLE: Final = """
do $$
declare
  plugin name := current_setting('pk.plugin');
  part record;
begin
  for part in
    select p.oid::regprocedure as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = plugin
  loop
    execute format('revoke all on routine %s from public', part.name);
    execute format('grant execute on routine %s to %I', part.name, plugin);
  end loop;
  for part in
    select c.oid::regclass as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = plugin and c.relkind = 'S'
  loop
    execute format('grant usage on sequence %s to %I', part.name, plugin);
  end loop;
  for part in
    select c.oid::regclass as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = plugin and c.relkind = 'v'
  loop
    execute format('grant select, insert, update, delete on %s to %I', part.name, plugin);
  end loop;
  for part in
    select t.oid::regtype as name from pg_type t join pg_namespace n on n.oid = t.typnamespace
    where n.nspname = plugin and t.typtype in ('e', 'd', 'r')
  loop
    execute format('grant usage on type %s to %I', part.name, plugin);
  end loop;
end $$;
"""
"""After each migration: functions, sequences, views and types of the schema are for the plugin's role, nobody else's."""

APPLIED: Final = """
select number, name, sha256, phase, applied_at, kernel_version from pk.migrations where schema = $1 order by number
"""
IS_APPLIED: Final = "select exists (select from pk.migrations where schema = $1 and number = $2)"
RECORD: Final = """
insert into pk.migrations (schema, number, name, sha256, phase, kernel_version) values ($1, $2, $3, $4, $5, $6)
"""
FORGET: Final = "delete from pk.migrations where schema = $1 and number = $2"

PURGE: Final = """
do $$
declare
  plugin name := current_setting('pk.plugin');
  keeper name := current_setting('pk.keeper');
  gone name;
begin
  execute format('drop schema if exists %I cascade', plugin);
  foreach gone in array array[plugin, keeper] loop
    if exists (select from pg_roles where rolname = gone) then
      execute format('drop owned by %I', gone);
      begin
        execute format('drop role %I', gone);
      exception when dependent_objects_still_exist then null;  -- another database of this cluster knows it too
      end;
    end if;
  end loop;
  delete from pk.migrations where schema = plugin;
end $$;
"""

FINDINGS: Final = """
with tables as (
  select c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relkind, c.relpersistence, c.reloptions, c.relacl,
         c.relowner
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1
), stored as (select * from tables t where relkind in ('r', 'p')
  -- Bookkeeping of a kernel plugin that belongs to no tenant, and that only its narrow functions reach.
  and not (coalesce(obj_description(t.oid, 'pg_class'), '') like 'no tenant: _%' and $1 not like 'x\\_%'
    and not exists (select from aclexplode(t.relacl) g where g.grantee <> t.relowner))),
ids as (select t.oid, a.attnum, a.atttypid = 'uuid'::regtype and a.attnotnull as sound
  from stored t join pg_attribute a on a.attrelid = t.oid and a.attname = 'tenant_id' and not a.attisdropped)
select t.relname as place, 'no_tenant' as code, 'has no column `tenant_id uuid not null`' as what,
       'add: tenant_id uuid not null default pk.tenant_id()' as remedy
  from stored t where not exists (select from ids i where i.oid = t.oid and i.sound)
union all
select t.relname, 'unprotected', 'is not behind the tenant wall', format('add: select pk.protect(%L);', t.relname)
  from stored t where not t.relrowsecurity or not t.relforcerowsecurity
    or not exists (select from pg_policy p where p.polrelid = t.oid and p.polname = 'tenant' and p.polcmd = '*'
      and p.polpermissive and p.polroles = array[$2::regrole::oid]
      and pg_get_expr(p.polqual, p.polrelid) = '(tenant_id = ( SELECT pk.tenant_id() AS tenant_id))'
      and pg_get_expr(p.polwithcheck, p.polrelid) = '(tenant_id = ( SELECT pk.tenant_id() AS tenant_id))')
union all
select t.relname, 'policy', format('has the further policy %I, which opens it', p.polname),
       'drop it; restrictive policies may be added, permissive ones not'
  from stored t join pg_policy p on p.polrelid = t.oid
  where p.polpermissive and p.polname <> 'tenant'
    and not (p.polname = 'owner' and p.polroles = array[$3::regrole::oid])
union all
select t.relname, 'primary_key', 'has no primary key that begins with tenant_id',
       'write: primary key (tenant_id, ...); ids of two tenants may then be equal and tell nothing'
  from stored t where not exists (
    select from pg_constraint k join ids i on i.oid = t.oid
    where k.conrelid = t.oid and k.contype = 'p' and k.conkey[1] = i.attnum)
union all
select t.relname, 'foreign_key', format('has the foreign key %s without tenant_id on both sides', k.conname),
       'write: foreign key (tenant_id, ...) references ... (tenant_id, ...)'
  from stored t join pg_constraint k on k.conrelid = t.oid and k.contype = 'f'
  where not exists (
    select from unnest(k.conkey, k.confkey) pair (here, there)
    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = pair.here and a.attname = 'tenant_id'
    join pg_attribute b on b.attrelid = k.confrelid and b.attnum = pair.there and b.attname = 'tenant_id')
union all
select t.relname, 'unique', format('has the unique index %s without tenant_id: it tells what other tenants have', x.relname),
       format('begin it with tenant_id; if it is meant to span tenants, say why: '
         'comment on index %I is ''across tenants: ...''', x.relname)
  from stored t join pg_index u on u.indrelid = t.oid and (u.indisunique or u.indisexclusion)
  join pg_class x on x.oid = u.indexrelid
  where not exists (select from ids i where i.oid = t.oid and i.attnum = any (u.indkey::smallint[]))
    and coalesce(obj_description(x.oid, 'pg_class'), '') not like 'across tenants: _%'
    -- A table with one row for each tenant is the list of tenants itself: what it keeps unique names them.
    and not exists (select from pg_constraint k join ids i on i.oid = t.oid
      where k.conrelid = t.oid and k.contype = 'p' and k.conkey = array[i.attnum])
union all
select t.relname, 'persistence', 'is unlogged or temporary: it would be empty after a crash', 'create it as a plain table'
  from stored t where t.relpersistence <> 'p'
union all
select t.relname, 'view', 'is a view with the rights of its owner, who sees every tenant',
       'write: create view ... with (security_invoker = true) as ...'
  from tables t where t.relkind = 'v'
    and not coalesce('security_invoker=true' = any (t.reloptions) or 'security_invoker=on' = any (t.reloptions), false)
union all
select t.relname, 'kind', 'is a materialized view or a foreign table, which know no row security', 'use a table'
  from tables t where t.relkind in ('m', 'f')
union all
select t.relname, 'grant', format('gives %s to %s', string_agg(g.privilege_type, ', '),
         coalesce(nullif(g.grantee, 0)::regrole::text, 'everybody')),
       'the plugin''s role gets select, insert, update, delete, by pk.protect alone; nobody else gets anything'
  from tables t cross join aclexplode(t.relacl) g
  where g.grantee <> t.relowner
    and not (g.grantee = $2::regrole and g.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'USAGE')
      and not g.is_grantable)
  group by t.relname, g.grantee
union all
select n.nspname, 'grant', format('gives %s to %s', string_agg(g.privilege_type, ', '),
         coalesce(nullif(g.grantee, 0)::regrole::text, 'everybody')),
       'the plugin''s role may use its schema and create nothing in it; nobody else gets anything'
  from pg_namespace n cross join aclexplode(n.nspacl) g
  where n.nspname = $1 and g.grantee <> n.nspowner
    and not (g.grantee = $2::regrole and g.privilege_type = 'USAGE' and not g.is_grantable)
  group by n.nspname, g.grantee
union all
select c.relname, 'owner', 'does not belong to the schema''s owner', 'do not change owners in a migration'
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1 and c.relowner <> $3::regrole
union all
select p.oid::regprocedure::text, 'search_path', 'is security definer and takes its search path from whoever calls it',
       format('add: set search_path = %I, pg_temp', $1)
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = $1 and p.prosecdef
    and not exists (select from unnest(p.proconfig) s where s like 'search\\_path=%')
union all
select p.oid::regprocedure::text, 'owner', 'does not belong to the schema''s owner', 'do not change owners in a migration'
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = $1 and p.proowner <> $3::regrole
order by 1, 2
"""
"""Everything in a schema ($1, its role $2, its owner $3) that breaks the tenant wall."""

FIND_KEYS: Final = "select id, inner_pad, outer_pad from pk.context_key order by id desc"
ADD_KEY: Final = "insert into pk.context_key (id, inner_pad, outer_pad) values ($1, $2, $3)"
DROP_OLD_KEYS: Final = """
delete from pk.context_key where id not in (select id from pk.context_key order by id desc limit $1)
"""
FIND_LOGIN: Final = "select password from pk.login"
SET_LOGIN: Final = "insert into pk.login (password) values ($1)"

OPEN_SESSION: Final = """
select pk.open_session() as turn, 'pk.turn'::regclass::oid as sequence, date_part('epoch', clock_timestamp()) as clock,
  current_setting('log_min_error_statement') in ('fatal', 'panic') and current_setting('log_statement') in ('none', 'ddl')
    and current_setting('log_min_duration_statement') = '-1' and current_setting('log_min_duration_sample') = '-1' as is_discreet
"""

LOCK_PLUGINS: Final = "lock table pk.plugin_change in share row exclusive mode"
"""One change after the other; reading goes on. No advisory lock, which any plugin's statement could take and hold."""
FIND_CHANGE: Final = "select sequence from pk.plugin_change where change_id = $1"
LAST_CHANGE: Final = "select max(sequence) from pk.plugin_change"
ADD_CHANGE: Final = "insert into pk.plugin_change (sequence, change_id, put, dropped) values ($1, $2, $3, $4)"
TRIM_CHANGES: Final = "delete from pk.plugin_change where sequence <= $1"

READ_PLUGINS: Final = """
select last.sequence as last_sequence, last.change_id, p.*
from (select sequence, change_id from pk.plugin_change order by sequence desc limit 1) last
left join pk.plugin p on true
order by p.id
"""
"""One statement, so that the number and the plugins are of one moment; one row without a plugin when there is none."""
PUT_PLUGINS: Final = """
insert into pk.plugin (id, version, digest, distribution, target, requirement, enabled, leaving, previous_version,
  previous_digest, previous_distribution, previous_target, previous_requirement, sequence)
select id, version, digest, distribution, target, requirement, enabled, leaving, previous->>'version', previous->>'digest',
  previous->>'distribution', previous->>'target', previous->>'requirement', $2
from jsonb_to_recordset($1) as given (id text, version text, digest text, distribution text, target text, requirement text,
  enabled boolean, leaving text, previous jsonb)
on conflict (id) do update set (version, digest, distribution, target, requirement, enabled, leaving, previous_version,
  previous_digest, previous_distribution, previous_target, previous_requirement, changed_at, sequence)
  = (excluded.version, excluded.digest, excluded.distribution, excluded.target, excluded.requirement, excluded.enabled,
  excluded.leaving, excluded.previous_version, excluded.previous_digest, excluded.previous_distribution, excluded.previous_target,
  excluded.previous_requirement, excluded.changed_at, excluded.sequence)
"""
DROP_PLUGINS: Final = "delete from pk.plugin where id = any ($1)"
TABLES: Final = """
select c.relname as name, greatest(c.reltuples, 0)::bigint as count, pg_relation_size(c.oid) as bytes
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p') and not c.relispartition order by c.relname
"""
COUNT_ROWS: Final = "select count(*) from (select from {table} limit $1) counted"
EXPORT: Final = "select to_jsonb(t) from {table} t"
EXPORT_FORMAT: Final = {"format": "csv", "quote": "\x01", "delimiter": "\x02"}
"""JSON escapes both marks, so no line is quoted, and no line has a break of its own."""
COUNT_PLUGINS: Final = "select count(*) from pk.plugin"

NOTIFY: Final = "select pg_notify($1, name) from unnest($2::text[]) as name"
WAIT_FOR_NO_DISK: Final = "set synchronous_commit = off"
"""Of the connection of wake-ups, which may be lost."""

EMIT: Final = "select pk.emit($1::uuid[], $2::text[], $3::text[], $4::text[], $5, $6)"
"""Writes what a transaction tells into the outbox; just before its commit."""
EMIT_ONE: Final = "select pk.emit_one($1, $2, $3, $4::text::json, $5, $6)"


def call_by_parameters(function: str, arguments: Sequence[object]) -> str:
    """A call of a function whose arguments are sent beside it."""
    return f"select {function}({','.join(f'${number + 1}' for number in range(len(arguments)))})"


def call_by_literals(function: str, arguments: Sequence[str | UUID | None]) -> str:
    """A call of a function with its arguments in it.

    Raises:
        KernelBug: one has a NUL, which no text of PostgreSQL may have.
    """
    return f"select {function}({','.join('null' if one is None else _text(str(one)) for one in arguments)})"


def emit_statement(
    ids: Sequence[object],
    types: Sequence[str],
    subjects: Sequence[str],
    payloads: Sequence[str],
    actor: str,
    traceparent: str,
) -> str:
    """`EMIT` with its arguments as literals.

    Raises:
        KernelBug: one has a NUL, which no text of PostgreSQL may have.
    """
    arrays = [_array(ids, "uuid"), *(_array(texts, "text") for texts in (types, subjects, payloads))]
    return f"select pk.emit({','.join(arrays)},{_text(actor)},{_text(traceparent)})"


def _array(values: Sequence[object], of: str) -> str:
    return f"array[{','.join(_text(str(value)) for value in values)}]::{of}[]"


def _text(value: str) -> str:
    """A text as SQL, whatever `standard_conforming_strings` is set to."""
    if "\0" in value:
        raise KernelBug("a text for the database has a NUL character, which PostgreSQL cannot keep")
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
