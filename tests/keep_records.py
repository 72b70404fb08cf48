"""Keep what the numbers of a study come from, without what could only go on with its runs.

    python tests/keep_records.py runs/update_rules docs/results/records/update_rules.tar.xz
    python tests/keep_records.py runs/lpg docs/results/records/lpg.tar.xz --without tasks --checkpoints training

writes an archive of every finished run's configuration, versions, metrics and evaluations, and of every lesson's
result. Unpacked into the study's folder it is enough for ``metarl reproduce STUDY --report-only``, and the same command
without that option goes on from there. ``--without KEY`` leaves a key of the evaluations out, such as tasks that are
large and follow from the seed; ``--checkpoints FOLDER`` keeps the newest checkpoint of the runs in that folder, too.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from metarl import run_files
from metarl.run import checkpoint, run_dir
from metarl.studies.memories.lesson import RESULT

KEPT = (run_files.CONFIG, run_files.VERSIONS, run_files.METRICS, run_files.EVALUATIONS)


def records(out: Path, without: Sequence[str], checkpoints: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Path within the study's folder, and content, of everything that is kept, in the order of paths."""
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name == RESULT:
            yield name, path.read_bytes()
        elif run_files.is_run(path) and (path / run_files.EVALUATIONS).exists():
            for file in KEPT:
                yield f"{name}/{file}", _content(path / file, without)
            if any(name.startswith(f"{folder}/") for folder in checkpoints):
                newest = checkpoint.complete(run_dir.checkpoints(path))[-1]
                for file in sorted(newest.iterdir()):
                    yield f"{name}/{run_files.CHECKPOINTS}/{newest.name}/{file.name}", file.read_bytes()


def _content(path: Path, without: Sequence[str]) -> bytes:
    content = path.read_bytes()
    if path.name != run_files.EVALUATIONS or not without:
        return content
    lines = [
        {key: value for key, value in json.loads(line).items() if key not in without} for line in content.splitlines()
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def keep(out: Path, archive: Path, without: Sequence[str] = (), checkpoints: Sequence[str] = ()) -> int:
    """Write the archive, the same bytes for the same records; returns how many files are in it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name, content in records(out, without, checkpoints):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            count += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--checkpoints", nargs="*", default=[])
    options = parser.parse_args()
    print(keep(options.out, options.archive, options.without, options.checkpoints), "files")
