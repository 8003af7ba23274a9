"""Progress bars for calls that take long: bulk creation, waiting, transfers.

tqdm's own where tqdm is installed (in a notebook its widget), rich's otherwise. By default a bar is drawn only where
somebody looks: in a notebook, IPython or an interactive Python, and only when the call takes longer than a second.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SEC = 1.0
BYTES = "B"
Advance = Callable[[int], object]


@contextmanager
def progress_bar(
    total: int | Callable[[], int], what: str, show: bool | None = None, unit: str = "Jobs"
) -> Iterator[Advance]:
    """A bar for the length of a block; what it yields is called with how many more are done.

    `show`: True always, False never, None (the default) in interactive sessions. The bar is drawn on stderr. A `total`
    that costs something to find out is given as a function, which is called when there is a bar.

    >>> with progress_bar(3, "counting", show=False) as advance:
    ...     for _ in range(3):
    ...         advance(1)
    """
    is_wanted = is_interactive() if show is None else show
    number = (total() if callable(total) else total) if is_wanted else 0
    if not number:
        yield _nothing
        return
    delay_sec = PATIENCE_SEC if show is None else 0.0
    made = _with_tqdm(number, what, unit, delay_sec) or _with_rich(number, what, unit)
    advance, close = made
    try:
        yield advance
    finally:
        close()


def is_interactive() -> bool:
    """Whether a person types at this process: a notebook, IPython, or Python's own prompt."""
    return hasattr(sys, "ps1")


def _nothing(done: int) -> None:
    """No bar."""


def _with_tqdm(total: int, what: str, unit: str, delay_sec: float) -> tuple[Advance, Callable[[], object]] | None:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    is_size = unit == BYTES
    bar = tqdm(total=total, desc=what, unit=unit if is_size else f" {unit}", unit_scale=is_size, delay=delay_sec)
    return bar.update, bar.close


def _with_rich(total: int, what: str, unit: str) -> tuple[Advance, Callable[[], object]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    counted = (DownloadColumn(),) if unit == BYTES else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeElapsedColumn())
    bar: Progress = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(what, total=total)
    bar.start()
    return lambda done: bar.advance(task, done), bar.stop
