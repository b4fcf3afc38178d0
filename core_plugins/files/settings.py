"""Settings of the blobs."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from plugin_api.limits import BLOB_BYTES_MAX
from plugin_api.settings import Secret, setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `files`."""

    tenant_bytes_max: Annotated[
        int, Meta(ge=0, le=2**53 - 1), setting("Bytes that one tenant may keep, over all plugins.")
    ] = 10 * 2**30
    blob_bytes_max: Annotated[int, Meta(ge=1, le=BLOB_BYTES_MAX), setting("Bytes that one blob may have.")] = (
        BLOB_BYTES_MAX
    )
    upload_orphan_s: Annotated[
        int,
        Meta(ge=60, le=2_592_000),
        setting("Seconds after which an upload in parts that nobody completed is aborted."),
    ] = 86_400
    sweep_s: Annotated[int, Meta(ge=1, le=86_400), setting("Seconds between two sweeps of what was left behind.")] = (
        3_600
    )
    io_threads: Annotated[
        int, Meta(ge=1, le=64), setting("Threads of one worker that read and write blobs (filesystem).")
    ] = 8
    public_url: Annotated[
        str,
        setting(
            "What signed URLs of the filesystem begin with, like https://files.example.com; empty: they begin with /."
        ),
    ] = ""
    s3_url: Annotated[
        str | None,
        setting("Address of an S3 API, like https://s3.example.com; without it blobs are files in the data folder."),
    ] = None
    s3_public_url: Annotated[
        str | None, setting("Address under which others reach the same S3 API, for signed URLs; by default `s3_url`.")
    ] = None
    s3_bucket: Annotated[str, Meta(min_length=3, max_length=63), setting("Bucket that holds all blobs.")] = (
        "platform-kernel"
    )
    s3_region: Annotated[str, setting("Region that requests are signed for.")] = "us-east-1"
    s3_access_key: Annotated[str, setting("Name of the account at the S3 API.")] = ""
    s3_secret_key: Annotated[Secret[str] | None, setting("Its secret.")] = None
    s3_connections: Annotated[int, Meta(ge=1, le=500), setting("Connections that one worker opens at most.")] = 32
