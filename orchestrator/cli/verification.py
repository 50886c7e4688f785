"""What ``data verify`` shows: a table by reason with examples, or everything as JSON."""

from __future__ import annotations

import json as json_format
import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

import typer

from orchestrator.cli import terminal
from orchestrator.errors import OrchestratorError
from orchestrator.runs.progress import Progress

if TYPE_CHECKING:
    from orchestrator.data.audit import SampleRules
    from orchestrator.data.chunk_sample import Sampling
    from orchestrator.data.problems import Problem
    from orchestrator.data.verify import Verification
    from orchestrator.storage.store import Store


def show_verification(
    store: Store,
    rules: SampleRules,
    num_processes: int,
    sampling: Sampling | None,
    *,
    json: bool,
    fix: bool,
    duplicates: bool,
) -> bool:
    """Verify, write the index anew with ``fix``, print; whether anything is wrong. Raises as the two that it calls."""
    from orchestrator.data.verify import add_chunk_tables, fix_index, verify_dataset

    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:  # there may be as many problems as samples
        with terminal.show_progress() as on_progress:
            result = verify_dataset(
                store,
                rules,
                num_processes,
                sampling,
                on_problem=lambda problem: print(json_format.dumps(asdict(problem)), file=spool),
                progress=lambda done, total: on_progress(Progress(f"verify {store.uri}", done, total, "shards")),
                duplicates=duplicates,
            )
        fixed, failure = None, None
        if not fix:
            fixed = add_chunk_tables(store, result)
        else:
            try:
                fixed = fix_index(store, result)
            except OrchestratorError as error:  # raised below: what was found is shown all the same
                failure = error
        if json:
            _print_document(result, sampling, fixed, spool)
        else:
            _print(result, sampling, fixed)
    if failure is not None:
        raise failure
    return bool(result.counts)


def _print_document(result: Verification, sampling: Sampling | None, fixed: str | None, lines: TextIO) -> None:
    """One JSON object on stdout; its ``problems`` list shard, reason, key and detail of each, one a line."""
    head = {
        "uri": result.uri,
        "format": result.format,
        "indexed": result.indexed is not None,
        "sampling": None if sampling is None else asdict(sampling),
        "num_shards": result.num_shards,
        "num_samples": result.num_samples,
        "fixed_index": fixed,
        "counts": dict(result.counts),
    }
    typer.echo(json_format.dumps(head, indent=2).removesuffix("\n}") + ',\n  "problems": [', nl=False)
    lines.seek(0)
    for number, line in enumerate(lines):
        typer.echo(f"{',' if number else ''}\n    {line.rstrip()}", nl=False)
    typer.echo("\n  ]\n}")


def _print(result: Verification, sampling: Sampling | None, fixed: str | None) -> None:
    """What is wrong, by reason; then what was looked at, and what became of the index."""
    from orchestrator.data.problems import REASONS

    rows = []
    for reason in (reason for reason in REASONS if result.counts[reason]):
        rows.append((reason, f"{result.counts[reason]:,}", REASONS[reason]))
        rows += [("", "", f"  {_to_text(problem)}") for problem in result.examples[reason]]
    if rows:
        terminal.print_table(("reason", "count", "what it means, and examples"), rows)
    part = "" if sampling is None else f", {100 * sampling.fraction:g}% of the chunks (seed {sampling.seed})"
    index = "" if result.indexed is not None else ", no index to compare with"
    wrong = f"{result.counts.total():,} problems" if result.counts else "nothing wrong"
    looked_at = f"{result.num_samples:,} samples in {result.num_shards:,} shards looked at{part}{index}"
    for line in (f"{result.uri}: {looked_at}: {wrong}", fixed):
        if line is not None:
            terminal.out.print(line, markup=False, soft_wrap=True)


def _to_text(problem: Problem) -> str:
    """An example as text: names and keys come from the data and may hold anything."""
    text = f"{problem.shard}{'' if problem.key is None else f' {problem.key}'}: {problem.detail}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
