-- phase: expand
-- up
-- Jobs: work that is put down in a transaction, and exists with its commit or not at all. Whose job it is, and in which tenant,
-- is taken from the signed context, never from arguments. A moment that is given as `at` is for tests, which turn the clock;
-- null is the database's own.

-- How many jobs of each queue wait, as two numbers: those that were added and those that have gone. Whoever adds holds his row
-- until his transaction ends; whoever takes jobs moves the other row, and so never waits for him.
create table pk.queue (
  plugin text collate "C" not null,
  name text collate "C" not null,
  added bigint not null default 0,
  primary key (plugin, name)) with (fillfactor = 50);
create table pk.queue_gone (
  plugin text collate "C" not null,
  name text collate "C" not null,
  gone bigint not null default 0,
  primary key (plugin, name)) with (fillfactor = 50);
revoke all on pk.queue, pk.queue_gone from public;

create table pk.job (
  -- The zero tenant has the jobs of the kernel's own plugins that are nobody's.
  tenant_id uuid not null,
  id uuid not null,
  plugin text collate "C" not null,
  queue text collate "C" not null,
  state text collate "C" not null default 'waiting' check (state in ('waiting', 'running', 'done', 'dead', 'cancelled')),
  priority smallint not null check (priority between 0 and 9),
  -- When it may be taken; of a job that runs, when its lease ends: so one statement finds both.
  run_at timestamptz not null,
  unique_key text collate "C" check (octet_length(unique_key) between 1 and 200),
  data json not null check (octet_length(data::text) <= 65536),
  attempt integer not null default 0,
  -- A worker had ended in the middle of the attempt before.
  left_behind boolean not null default false,
  -- Grows whenever it changes hands; what comes with an older one counts for nothing.
  epoch bigint not null default 0,
  progress smallint not null default 0 check (progress between 0 and 100),
  note text not null default '' check (length(note) <= 200),
  reason text not null default '',
  actor text not null,
  traceparent text not null,
  put_at timestamptz not null,
  ended_at timestamptz,
  -- False of one that was cancelled while it waited, until its place is free again.
  is_settled boolean not null default true,
  primary key (tenant_id, id)) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
revoke all on pk.job from public;
create unique index job_id on pk.job (id);
create unique index job_key on pk.job (tenant_id, plugin, queue, unique_key) where state = 'waiting';
create index job_due on pk.job (plugin, queue, priority desc, run_at, id) where state in ('waiting', 'running');
create index job_dead on pk.job (plugin, queue, id) where state = 'dead';
create index job_unsettled on pk.job (plugin, queue) where not is_settled;
create index job_ended on pk.job (plugin, queue, ended_at) where state in ('done', 'dead', 'cancelled');

-- The routing key of a plugin's queue: `send.email` of the role `notify` is `notify.send.email`.
create function pk.routing_key(plugin text, queue text) returns text
  language sql immutable strict parallel safe set search_path = pg_catalog
  return case when starts_with(plugin, 'x_') then replace(substr(plugin, 3), '_', '.') else plugin end || '.' || queue;

-- How many jobs of one queue may wait.
create function pk.queue_bound() returns integer
  language sql immutable parallel safe set search_path = pg_catalog return 10000;

-- What only kernel.eventbus may do.
create function pk.need_eventbus() returns void
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
begin
  if not pk.entered() or current_setting('role') <> 'eventbus' then
    raise exception 'jobs are worked off by kernel.eventbus alone' using errcode = '42501';
  end if;
end $$;
revoke all on function pk.need_eventbus() from public;

-- Count jobs that were cancelled while they waited as gone. Whoever cancels leaves that to others, since he would hold up the
-- queue's workers until his transaction ends.
create function pk.settle_cancelled(of_plugin text, key text) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  settled bigint;
begin
  update pk.job j set is_settled = true
    where j.id = any (array(select c.id from pk.job c where c.plugin = of_plugin and c.queue = key and not c.is_settled
      for update skip locked));
  get diagnostics settled = row_count;
  if settled > 0 then
    update pk.queue_gone g set gone = g.gone + settled where g.plugin = of_plugin and g.name = key;
  end if;
end $$;
revoke all on function pk.settle_cancelled(text, text) from public;

-- Put a job down. `id` is null when the queue is full; that of another job, which waits with the same key,
-- when there is one, and `fresh` is false then.
create function pk.add_job(of_tenant uuid, of_plugin text, key text, job uuid, payload text, urgency integer, due timestamptz,
    wanted_key text, by_actor text, by_trace text, at timestamptz, out id uuid, out fresh boolean)
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  moment constant timestamptz := coalesce(at, clock_timestamp());
  has_room boolean;
begin
  if key !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$' or length(key) > 160 then
    raise exception 'no queue has the routing key %', key using errcode = '22023';
  end if;
  if not exists (select from pk.queue q where q.plugin = of_plugin and q.name = key) then
    insert into pk.queue_gone (plugin, name) values (of_plugin, key) on conflict do nothing;
    insert into pk.queue (plugin, name) values (of_plugin, key) on conflict do nothing;
  end if;
  fresh := false;
  loop
    -- Locked, so that nobody begins it before this transaction has ended: whoever does it sees what was written here.
    select j.id into id from pk.job j where j.tenant_id = of_tenant and j.plugin = of_plugin and j.queue = key
      and j.unique_key = wanted_key and j.state = 'waiting' for share;
    if found then return; end if;
    for tries in 1..2 loop  -- again, for what was taken while this waited for another who adds
      update pk.queue q set added = q.added + 1 where q.plugin = of_plugin and q.name = key
        and q.added - (select g.gone from pk.queue_gone g where g.plugin = of_plugin and g.name = key) < pk.queue_bound();
      has_room := found;
      exit when has_room;
      perform pk.settle_cancelled(of_plugin, key);
    end loop;
    if not has_room then return; end if;
    insert into pk.job (tenant_id, id, plugin, queue, priority, run_at, unique_key, data, actor, traceparent, put_at)
      values (of_tenant, job, of_plugin, key, urgency, coalesce(due, moment), wanted_key, payload::json, by_actor, by_trace,
        moment)
      on conflict (tenant_id, plugin, queue, unique_key) where state = 'waiting' do nothing;
    if found then
      id := job;
      fresh := true;
      return;
    end if;
    update pk.queue q set added = q.added - 1 where q.plugin = of_plugin and q.name = key;
  end loop;
end $$;
revoke all on function pk.add_job(uuid, text, text, uuid, text, integer, timestamptz, text, text, text, timestamptz) from public;

create function pk.put_job(queue text, job uuid, payload text, urgency integer, due timestamptz, wanted_key text, by_actor text,
    by_trace text, at timestamptz, out id uuid, out fresh boolean)
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
  plugin constant text := current_setting('role');
begin
  select a.id, a.fresh into id, fresh from pk.add_job(tenant, plugin, pk.routing_key(plugin, queue), job, payload, urgency, due,
    wanted_key, by_actor, by_trace, at) a;
end $$;

-- Put a job down for a plugin, in a tenant or, when that is null, in none; for what a schedule begins.
create function pk.put_job_for(of_tenant uuid, of_plugin text, queue text, job uuid, payload text,
    at timestamptz, out id uuid, out fresh boolean)
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  select a.id, a.fresh into id, fresh from pk.add_job(coalesce(of_tenant, '00000000-0000-0000-0000-000000000000'), of_plugin,
    pk.routing_key(of_plugin, queue), job, payload, 5, null, null, 'plugin:kernel.eventbus', '', at) a;
end $$;

-- Take the next jobs of a queue for so many seconds: those that are due, and so many of those that a worker ended in the
-- middle of. They are told apart so that one that ends workers is begun beside few others. One at which a worker ended at
-- its last attempt is dead instead.
create function pk.take_jobs(of_plugin text, key text, most integer, most_left integer, seconds double precision,
    attempts_max integer, at timestamptz) returns setof pk.job
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  moment constant timestamptz := coalesce(at, clock_timestamp());
  chosen uuid[];
  due uuid[];
begin
  perform pk.need_eventbus();
  perform pk.settle_cancelled(of_plugin, key);
  update pk.job j set state = 'dead', epoch = j.epoch + 1, ended_at = moment,
      reason = format('its worker ended in the middle of it at attempt %s', j.attempt)
    where j.id = any (array(select w.id from pk.job w where w.plugin = of_plugin and w.queue = key and w.state = 'running'
      and w.run_at <= moment and w.attempt >= attempts_max for update skip locked));
  chosen := array(select w.id from pk.job w where w.plugin = of_plugin and w.queue = key and w.state = 'running'
    and w.run_at <= moment order by w.priority desc, w.run_at, w.id limit most_left for update skip locked);
  due := array(select w.id from pk.job w where w.plugin = of_plugin and w.queue = key and w.state = 'waiting'
    and w.run_at <= moment order by w.priority desc, w.run_at, w.id limit most - cardinality(chosen) for update skip locked);
  if due <> '{}' then
    update pk.queue_gone g set gone = g.gone + cardinality(due) where g.plugin = of_plugin and g.name = key;
  end if;
  return query with taken as (
    update pk.job j set state = 'running', attempt = j.attempt + 1, epoch = j.epoch + 1, progress = 0, note = '',
        left_behind = j.state = 'running', run_at = moment + make_interval(secs => seconds)
      where j.id = any (chosen || due) returning j.*)
    select t.* from taken t order by t.priority desc, t.put_at, t.id;
end $$;

-- Hold on to jobs that run for so many seconds more; those that are still held. Of the others, each was cancelled or is
-- another worker's by now.
create function pk.extend_jobs(jobs uuid[], epochs bigint[], seconds double precision, at timestamptz) returns setof uuid
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  return query update pk.job j set run_at = coalesce(at, clock_timestamp()) + make_interval(secs => seconds)
    from unnest(jobs, epochs) as mine (id, epoch)
    where j.id = mine.id and j.epoch = mine.epoch and j.state = 'running' returning j.id;
end $$;

create function pk.note_progress(job uuid, held bigint, percent integer, what text) returns boolean
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  update pk.job j set progress = percent, note = what where j.id = job and j.epoch = held and j.state = 'running';
  return found;
end $$;

-- A job of this plugin and tenant is done, in the transaction of its effect; false when it is held no more, and then the
-- transaction is to be rolled back.
create function pk.finish_job(job uuid, held bigint, at timestamptz) returns boolean
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  update pk.job j set state = 'done', progress = 100, epoch = j.epoch + 1, ended_at = coalesce(at, clock_timestamp())
    where j.tenant_id = tenant and j.id = job and j.plugin = current_setting('role') and j.epoch = held and j.state = 'running';
  return found;
end $$;

-- Likewise for a job that is no tenant's.
create function pk.finish_kernel_job(job uuid, held bigint, at timestamptz) returns boolean
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  update pk.job j set state = 'done', progress = 100, epoch = j.epoch + 1, ended_at = coalesce(at, clock_timestamp())
    where j.tenant_id = '00000000-0000-0000-0000-000000000000' and j.id = job and j.epoch = held and j.state = 'running';
  return found;
end $$;

-- Let a job wait again for so many seconds; without `counts` the attempt was none of its own fault. It comes back though its
-- queue is full. A key that another job waits with by now is let go of. False when it is held no more.
create function pk.return_job(job uuid, held bigint, seconds double precision, why text, counts boolean, at timestamptz)
  returns boolean language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  back record;
begin
  perform pk.need_eventbus();
  begin
    update pk.job j set state = 'waiting', epoch = j.epoch + 1, reason = why, attempt = j.attempt - (not counts)::integer,
        run_at = coalesce(at, clock_timestamp()) + make_interval(secs => seconds)
      where j.id = job and j.epoch = held and j.state = 'running' returning j.plugin, j.queue into back;
  exception when unique_violation then
    update pk.job j set state = 'waiting', epoch = j.epoch + 1, reason = why, attempt = j.attempt - (not counts)::integer,
        run_at = coalesce(at, clock_timestamp()) + make_interval(secs => seconds), unique_key = null
      where j.id = job and j.epoch = held and j.state = 'running' returning j.plugin, j.queue into back;
  end;
  if back.plugin is null then return false; end if;
  update pk.queue_gone g set gone = g.gone - 1 where g.plugin = back.plugin and g.name = back.queue;
  return true;
end $$;

create function pk.bury_job(job uuid, held bigint, why text, at timestamptz) returns boolean
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  update pk.job j set state = 'dead', epoch = j.epoch + 1, reason = why, ended_at = coalesce(at, clock_timestamp())
    where j.id = job and j.epoch = held and j.state = 'running';
  return found;
end $$;

-- End a job that waits or runs; the state that it had, null when there is none. Whoever runs it holds it no more.
create function pk.end_job(of_tenant uuid, of_plugin text, job uuid, at timestamptz) returns text
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  found_job pk.job;
begin
  select j.* into found_job from pk.job j where j.id = job and (of_tenant is null or j.tenant_id = of_tenant)
    and (of_plugin is null or j.plugin = of_plugin) for update;
  if found_job.state in ('waiting', 'running') then
    update pk.job j set state = 'cancelled', epoch = j.epoch + 1, ended_at = coalesce(at, clock_timestamp()),
      is_settled = found_job.state = 'running' where j.id = job;
  end if;
  return found_job.state;
end $$;
revoke all on function pk.end_job(uuid, text, uuid, timestamptz) from public;

create function pk.cancel_job(job uuid, at timestamptz) returns text
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  return pk.end_job(tenant, current_setting('role'), job, at);
end $$;

-- For those who may: any plugin's job of a tenant, or of all when that is null.
create function pk.cancel_job_of(of_tenant uuid, job uuid, at timestamptz) returns text
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  return pk.end_job(of_tenant, null, job, at);
end $$;

-- One job of this plugin and tenant.
create function pk.find_job(job uuid) returns setof pk.job
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  return query select j.* from pk.job j where j.tenant_id = tenant and j.id = job and j.plugin = current_setting('role');
end $$;

create function pk.find_job_of(of_tenant uuid, job uuid) returns setof pk.job
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  return query select j.* from pk.job j where j.tenant_id = of_tenant and j.id = job;
end $$;

-- Let dead jobs of a queue, or one, wait again from their first attempt on, the oldest first, as far as there is room;
-- `left_over` is how many there was none for.
create function pk.replay_jobs(key text, job uuid, at timestamptz, out replayed bigint, out left_over bigint)
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  dead record;
  room bigint;
  back bigint;
begin
  perform pk.need_eventbus();
  replayed := 0;
  left_over := 0;
  for dead in select j.plugin, j.queue, count(*) as jobs from pk.job j where j.state = 'dead'
      and (key is null or j.queue = key) and (job is null or j.id = job) group by 1, 2 order by 1, 2 loop
    perform pk.settle_cancelled(dead.plugin, dead.queue);
    select greatest(pk.queue_bound() - (q.added - g.gone), 0) into room from pk.queue q join pk.queue_gone g using (plugin, name)
      where q.plugin = dead.plugin and q.name = dead.queue for update of g;
    update pk.job j set state = 'waiting', epoch = j.epoch + 1, attempt = 0, ended_at = null, unique_key = null,
        run_at = coalesce(at, clock_timestamp())
      -- As an array it is found once; in a plain `in` the planner may look for it again and again, and the limit be passed.
      where j.state = 'dead' and j.id = any (array(select w.id from pk.job w where w.plugin = dead.plugin
        and w.queue = dead.queue and w.state = 'dead' and (job is null or w.id = job)
        order by w.id limit room for update skip locked));
    get diagnostics back = row_count;
    update pk.queue_gone g set gone = g.gone - back where g.plugin = dead.plugin and g.name = dead.queue;
    replayed := replayed + back;
    left_over := left_over + dead.jobs - back;
  end loop;
end $$;

-- All queues: how many wait, since when the oldest does that is due, how many run and are dead (100000 at most are counted).
-- Of what waits only the first of each priority is looked at.
create function pk.list_queues(at timestamptz)
  returns table (queue text, plugin text, waiting bigint, running bigint, dead bigint, oldest timestamptz)
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
#variable_conflict use_column
begin
  perform pk.need_eventbus();
  return query select q.name, q.plugin,
      q.added - g.gone - (select count(*) from pk.job j where j.plugin = q.plugin and j.queue = q.name and not j.is_settled),
      (select count(*) from pk.job j where j.plugin = q.plugin and j.queue = q.name and j.state = 'running'),
      (select count(*) from (select from pk.job j where j.plugin = q.plugin and j.queue = q.name and j.state = 'dead'
        limit 100000) d),
      (select min(f.run_at) from generate_series(0, 9) as p (priority) cross join lateral (select j.run_at from pk.job j
          where j.plugin = q.plugin and j.queue = q.name and j.priority = p.priority and j.state = 'waiting'
          order by j.run_at limit 1) f
        where f.run_at <= coalesce(at, clock_timestamp()))
    from pk.queue q join pk.queue_gone g using (plugin, name) order by q.name, q.plugin;
end $$;

-- Dead jobs of all tenants, those that were put last first.
create function pk.list_dead_jobs(key text, before uuid, most integer) returns setof pk.job
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  return query select j.* from pk.job j where j.state = 'dead' and (key is null or j.queue = key)
    and (before is null or j.id < before) order by j.id desc limit most;
end $$;

-- Forget jobs of a queue that ended so long ago; how many.
create function pk.sweep_jobs(of_plugin text, key text, keep_hours integer, keep_dead_days integer, at timestamptz) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  moment constant timestamptz := coalesce(at, clock_timestamp());
  gone bigint;
begin
  perform pk.need_eventbus();
  perform pk.settle_cancelled(of_plugin, key);
  delete from pk.job j where j.plugin = of_plugin and j.queue = key and j.state in ('done', 'cancelled', 'dead') and j.is_settled
    and j.ended_at < moment - (case when j.state = 'dead' then make_interval(days => keep_dead_days)
      else make_interval(hours => keep_hours) end);
  get diagnostics gone = row_count;
  return gone;
end $$;

-- Forget all jobs of a tenant that leaves.
create function pk.erase_jobs(of_tenant uuid) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
begin
  perform pk.need_eventbus();
  with erased as (delete from pk.job j where j.tenant_id = of_tenant returning j.plugin, j.queue, j.state, j.is_settled)
  update pk.queue_gone g set gone = g.gone + e.jobs
    from (select plugin, queue, count(*) as jobs from erased where state = 'waiting' or not is_settled group by 1, 2) e
    where g.plugin = e.plugin and g.name = e.queue;
end $$;

-- down
drop function pk.erase_jobs(uuid), pk.sweep_jobs(text, text, integer, integer, timestamptz), pk.list_dead_jobs(text, uuid, integer),
  pk.list_queues(timestamptz), pk.replay_jobs(text, uuid, timestamptz), pk.find_job_of(uuid, uuid), pk.find_job(uuid),
  pk.cancel_job_of(uuid, uuid, timestamptz), pk.cancel_job(uuid, timestamptz), pk.end_job(uuid, text, uuid, timestamptz),
  pk.bury_job(uuid, bigint, text, timestamptz),
  pk.return_job(uuid, bigint, double precision, text, boolean, timestamptz),
  pk.finish_kernel_job(uuid, bigint, timestamptz), pk.finish_job(uuid, bigint, timestamptz),
  pk.note_progress(uuid, bigint, integer, text), pk.extend_jobs(uuid[], bigint[], double precision, timestamptz),
  pk.take_jobs(text, text, integer, integer, double precision, integer, timestamptz),
  pk.put_job_for(uuid, text, text, uuid, text, timestamptz),
  pk.put_job(text, uuid, text, integer, timestamptz, text, text, text, timestamptz),
  pk.add_job(uuid, text, text, uuid, text, integer, timestamptz, text, text, text, timestamptz),
  pk.settle_cancelled(text, text), pk.need_eventbus(), pk.queue_bound(), pk.routing_key(text, text);
drop table pk.job, pk.queue_gone, pk.queue;
