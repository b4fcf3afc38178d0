"""The commands about events and jobs. What they do lies beside: `events`, `jobs`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from host.cli.declaring import DATA_DIR, AsJson, DataDir, Url, command

events = typer.Typer(no_args_is_help=True, help="Follow events, and see to those that could not be handled.")
jobs = typer.Typer(no_args_is_help=True, help="See queues of jobs, and see to those that failed for good.")
_PLACE: Final = re.compile(r"(platform\.[a-z]+\.events)/([0-9]|1[01])/([0-9]{1,15})\Z")


def _id(of: str, known: str) -> Callable[[str | None], str | None]:
    """Check of an option that takes an id."""

    def check(text: str | None) -> str | None:
        try:
            return None if text is None else str(UUID(text))
        except ValueError:
            raise typer.BadParameter(f"{str(text)[:60]!r} is no {of}'s id; {known}") from None

    return check


def _moment(text: str) -> str:
    """A time with its zone, as operations take it."""
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError:
        pass
    raise typer.BadParameter(f"{text[:60]!r} is no time; write one with its zone, like 2026-03-01T12:00:00Z")


def _since(text: str | None) -> str | None:
    return None if text is None else _moment(text)


def _begin(text: str) -> str:
    return text if text in ("now", "beginning") or (text.isascii() and text.isdigit()) else _moment(text)


def _place(text: str | None) -> str | None:
    if text is None or _PLACE.match(text):
        return text
    told = "write TOPIC/PARTITION/OFFSET, like platform.money.events/3/120, as `pk events tail` prints it behind at="
    raise typer.BadParameter(f"{text[:60]!r} is no offset; {told}")


def _one_of(**given: Any) -> str:
    """The one option of these that was given; usage when it is not just one."""
    chosen = [name for name, value in given.items() if value]
    if len(chosen) == 1:
        return chosen[0]
    options = ", ".join(f"--{name}" for name in given)
    said = f"{len(chosen)} of them are given" if chosen else "none is given"
    raise typer.BadParameter(f"say one of {options}; {said}")


Consumer = Annotated[
    str | None, typer.Option(metavar="NAME", help="A consumer: its plugin's area and its method, like acme.crm.hear.")
]
Queue = Annotated[str | None, typer.Option(metavar="NAME", help="A queue by its routing key, like notify.send.email.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Print so many at most.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@command(events, name="tail")
def events_tail(
    event_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only this full type, like acme.crm.lead.created.v1.")
    ] = None,
    subject: Annotated[str | None, typer.Option(metavar="ID", help="Only of the entity with this id.")] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            metavar="ID", callback=_id("tenant", "events have it behind tenant="), help="Only of this tenant."
        ),
    ] = None,
    begin: Annotated[
        str,
        typer.Option(
            "--from", metavar="WHERE", callback=_begin, help="now, beginning, a time with its zone, or a position."
        ),
    ] = "now",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes, until Ctrl-C.")] = True,
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one CloudEvent a line.")] = False,
) -> None:
    """Print events of all tenants as they come, each on a line.

    A line has the position in the log, time, type, subject, the number within the entity, tenant, place (topic, partition
    and offset), and the beginning of the data; --json has all of it. Ctrl-C ends it, with status 0.

    Examples:
      pk events tail
      pk events tail --type money.transfer.posted.v1 --from beginning --no-follow
      pk events tail --from 2026-03-01T12:00:00Z --json | jq .data
    """
    from host.cli.events import tail  # noqa: PLC0415 - each command loads what it needs

    given = {"type": event_type, "subject": subject, "tenant_id": tenant}
    wanted = {name: value for name, value in given.items() if value is not None}
    tail(data_dir, url, begin, wanted, follow=follow, as_json=as_json)


@command(events, name="dlq")
def events_dlq(
    consumer: Consumer = None,
    limit: Limit = 200,
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first.

    An event that its consumer failed at four times, and whatever came of the same entity after it (0 attempts): they wait
    until they are replayed.

    Examples:
      pk events dlq
      pk events dlq --consumer acme.crm.hear --json
    """
    from host.cli.events import list_letters  # noqa: PLC0415 - as above

    list_letters(data_dir, url, consumer, limit, as_json=as_json)


@command(events, name="replay")
def events_replay(
    consumer: Consumer = None,
    letter: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            callback=_id("dead letter", "`pk events dlq` lists them"),
            help="The dead letters of the entity of this one.",
        ),
    ] = None,
    every: All = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", callback=_since, help="With --consumer: what was told since then, handled or not."
        ),
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            metavar="TOPIC/PARTITION/OFFSET",
            callback=_place,
            help="With --consumer: one partition from this offset on, handled or not.",
        ),
    ] = None,
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Have events told again: dead letters, or what a consumer has passed.

    What has had its effect has none again, so a replay does no harm and may be repeated. Order within an entity is kept;
    what fails again stays a dead letter.

    Examples:
      pk events replay --consumer acme.crm.hear                    its dead letters
      pk events replay --letter 01890a5d-ac96-774b-bcce-b302099a8057
      pk events replay --all
      pk events replay --consumer acme.crm.hear --since 2026-03-01T12:00:00Z
      pk events replay --consumer acme.crm.hear --offset platform.money.events/3/120
    """
    from host.cli.events import replay_letters, rewind  # noqa: PLC0415 - as above

    if since is None and offset is None:
        chosen = _one_of(consumer=consumer, letter=letter, all=every)
        asked = {"consumer": {"consumer": consumer}, "letter": {"letter_id": letter}, "all": {}}
        replay_letters(data_dir, url, asked[chosen], as_json=as_json)
        return
    _one_of(since=since, offset=offset)
    if consumer is None or letter is not None or every:
        raise typer.BadParameter("--since and --offset go with --consumer, and with nothing else")
    rewind(data_dir, url, consumer, {"since": since} if since else {"place": _place_of(str(offset))}, as_json=as_json)


def _place_of(text: str) -> dict[str, Any]:
    topic, partition, offset = text.split("/")
    return {"topic": topic, "partition": int(partition), "offset": int(offset)}


# -------------------------------------------------------------------------------------------------------- jobs


@command(jobs, name="list")
def jobs_list(data_dir: DataDir = DATA_DIR, url: Url = None, as_json: AsJson = False) -> None:
    """List queues: how many jobs wait, of how many that may, run and are dead, and how long the oldest has been due.

    Examples:
      pk jobs list
      PK_API_KEY=pkk_... pk jobs list --url https://kernel.example.com --json
    """
    from host.cli.jobs import list_queues  # noqa: PLC0415 - as above

    list_queues(data_dir, url, as_json=as_json)


@command(jobs, name="dead")
def jobs_dead(
    queue: Queue = None, limit: Limit = 200, data_dir: DataDir = DATA_DIR, url: Url = None, as_json: AsJson = False
) -> None:
    """List jobs that failed at their last attempt; those that were put last first.

    Examples:
      pk jobs dead
      pk jobs dead --queue notify.send.email --json
    """
    from host.cli.jobs import list_dead  # noqa: PLC0415 - as above

    list_dead(data_dir, url, queue, limit, as_json=as_json)


@command(jobs, name="replay")
def jobs_replay(
    queue: Queue = None,
    job: Annotated[
        str | None,
        typer.Option(metavar="ID", callback=_id("job", "`pk jobs dead` lists dead ones"), help="This dead job."),
    ] = None,
    every: All = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Have dead jobs done again, from their first attempt on, as far as their queue has room.

    Examples:
      pk jobs replay --queue notify.send.email
      pk jobs replay --job 01890a5d-ac96-774b-bcce-b302099a8057
      pk jobs replay --all
    """
    from host.cli.jobs import replay  # noqa: PLC0415 - as above

    chosen = _one_of(queue=queue, job=job, all=every)
    asked = {"queue": {"queue": queue}, "job": {"job_id": job}, "all": {}}
    replay(data_dir, url, asked[chosen], as_json=as_json)


@command(jobs, name="cancel")
def jobs_cancel(
    job: Annotated[
        str, typer.Argument(metavar="ID", callback=_id("job", "whoever put it was told it"), help="The job.")
    ],
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job of any tenant: one that waits goes, one that runs is told and has no effect.

    Examples:
      pk jobs cancel 01890a5d-ac96-774b-bcce-b302099a8057
    """
    from host.cli.jobs import cancel  # noqa: PLC0415 - as above

    cancel(data_dir, url, job, as_json=as_json)
