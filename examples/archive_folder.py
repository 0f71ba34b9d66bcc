"""Archive a folder: a tool with an effect on the outside, written so that running it twice does no harm.

taskengine dev examples/archive_folder.py
taskengine call archive_folder folder=/home/me/photos archive=/backup/photos.tar.gz

It takes any path that its account may: for others than yourself, confine it, as `_allowed` in workers/demo.py does.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

from pydantic import BaseModel, Field

from taskengine import SyncContext, TaskEngine, ToolError

engine = TaskEngine("archives")


class Replace(BaseModel):
    replace: bool = Field(title="Replace it?")


class Archive(BaseModel):
    archive: str
    files: int
    bytes: int
    sha256: str


@engine.tool(ttl="30d", timeout="12h", annotations={"destructiveHint": True})
def archive_folder(folder: str, archive: str, ctx: SyncContext) -> Archive:
    """Pack a folder into a .tar.gz file and return its checksum. Asks before it replaces a file."""
    source, target = Path(folder), Path(archive)
    if not source.is_dir():
        raise ToolError(f"There is no folder {folder}.")
    if not target.parent.is_dir():
        raise ToolError(f"There is no folder {target.parent} for the archive.")
    if target.exists():
        answer = ctx.elicit(f"{target} exists.", Replace)
        if answer.data is None or not answer.data.replace:
            raise ToolError(f"{target} was left as it is, and nothing was archived.")
    files = sorted(path for path in source.rglob("*") if path.is_file() and path.resolve() != target.resolve())
    # An attempt that was lost leaves this behind, and the next one writes over it; only a whole archive gets the name.
    unfinished = target.with_name(f".{target.name}.{ctx.task_id or os.getpid()}")
    with tarfile.open(unfinished, "w:gz") as packed:
        for number, path in enumerate(files, 1):
            packed.add(path, arcname=str(path.relative_to(source)), recursive=False)
            ctx.progress(number, len(files), path.name)
    unfinished.replace(target)
    with target.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return Archive(archive=str(target), files=len(files), bytes=target.stat().st_size, sha256=checksum)
