-- phase: expand
-- up
-- What is kept for a plugin goes when it leaves with its data, at most `most` rows of a kind at once; how many rows went. These
-- are called until it is none; whoever was cut off in between begins anew.

-- What its consumers have done, what it told that the log has not yet, the numbers of its entities, its readers' leases.
create function pk.forget_told_by(of_plugin text, of_area text, most integer) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  prefix constant text := 'eventbus:' || of_area || '.';
  gone bigint;
  went bigint;
begin
  perform pk.need_eventbus();
  delete from pk.inbox where ctid = any (array(select i.ctid from pk.inbox i where i.plugin = of_plugin limit most));
  get diagnostics went = row_count;
  delete from pk.outbox where ctid = any (array(
    select o.ctid from pk.outbox o where o.source = '/plugins/' || of_area limit most));
  get diagnostics gone = row_count;
  went := went + gone;
  delete from pk.entity where ctid = any (array(select e.ctid from pk.entity e where e.area = of_area limit most));
  get diagnostics gone = row_count;
  went := went + gone;
  if went = 0 then  -- a consumer's name has one word behind the area; with more of them it is another plugin's
    delete from pk.lease l where starts_with(l.name, prefix)
      and strpos(split_part(substr(l.name, length(prefix) + 1), '/', 1), '.') = 0;
  end if;
  return went;
end $$;

-- Its jobs and queues, and its schedules' leases.
create function pk.forget_jobs_of(of_plugin text, most integer) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  went bigint;
begin
  perform pk.need_eventbus();
  delete from pk.job where ctid = any (array(select j.ctid from pk.job j where j.plugin = of_plugin limit most));
  get diagnostics went = row_count;
  if went = 0 then
    delete from pk.queue where plugin = of_plugin;
    delete from pk.queue_gone where plugin = of_plugin;
    delete from pk.lease where starts_with(name, 'eventbus:schedule/' || of_plugin || '/');
  end if;
  return went;
end $$;

-- down
drop function pk.forget_jobs_of(text, integer), pk.forget_told_by(text, text, integer);
