"""`pk jobs list|dead|replay|cancel`: queues, jobs that failed for good, and what can be done about them."""

from __future__ import annotations

from pathlib import Path

from host.cli.operating import Document, age, asked, check_name, listed, operations_of
from host.cli.output import print_json, print_table, print_text


def list_queues(data_dir: Path, url: str | None, *, as_json: bool) -> None:
    """`pk jobs list`."""
    answer = asked(operations_of(data_dir, url), "GET", "/queues")
    if as_json:
        print_json(answer)
        return
    rows = [
        (
            str(one["queue"]),
            f"{one['waiting']}/{one['limit']}",
            str(one["running"]),
            str(one["dead"]),
            age(one["oldest"]),
        )
        for one in answer["items"]
    ]
    print_table(("QUEUE", "WAITING", "RUNNING", "DEAD", "OLDEST DUE"), rows)


def list_dead(data_dir: Path, url: str | None, queue: str | None, most: int, *, as_json: bool) -> None:
    """`pk jobs dead`."""
    kernel = operations_of(data_dir, url)
    items, has_more = listed(kernel, "/dead-jobs", {"queue": queue} if queue else {}, most)
    if queue and not items:
        check_name(kernel, "/queues", "queue", queue, "queue")
    if as_json:
        print_json({"items": items, "has_more": has_more})
        return
    rows = [(str(one["id"]), str(one["tenant_id"] or "-"), *_row(one["view"])) for one in items]
    print_table(("JOB", "TENANT", "QUEUE", "ATTEMPTS", "DEAD SINCE", "REASON"), rows)
    if has_more:
        print_text(f"there are more than these {len(items)}; --limit shows more of them")


def _row(view: Document) -> tuple[str, ...]:
    return str(view["queue"]), str(view["attempt"]), age(view["ended_at"]), str(view["reason"])


def replay(data_dir: Path, url: str | None, wanted: Document, *, as_json: bool) -> None:
    """`pk jobs replay`: the dead jobs of a queue, one, or all."""
    kernel = operations_of(data_dir, url)
    answer = asked(kernel, "POST", "/dead-jobs/replay", dict(wanted))
    if "queue" in wanted and not answer["jobs"]:
        check_name(kernel, "/queues", "queue", wanted["queue"], "queue")
    if as_json:
        print_json(answer)
    elif answer["jobs"]:
        left = f"; {answer['left_over']} stay dead, since their queue has no room" if answer["left_over"] else ""
        print_text(f"jobs that wait again: {answer['jobs']}{left}")
    else:
        print_text("there are no dead jobs")


def cancel(data_dir: Path, url: str | None, job_id: str, *, as_json: bool) -> None:
    """`pk jobs cancel`."""
    answer = asked(operations_of(data_dir, url), "POST", "/jobs/cancel", {"job_id": job_id})
    if as_json:
        print_json(answer)
        return
    told = {"waiting": "it waited, and is gone", "running": "its worker is told, and its effect does not count"}
    print_text(f"the job {job_id} is cancelled: {told.get(answer['was'], 'it was so already')}")
