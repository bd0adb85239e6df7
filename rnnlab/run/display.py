"""What a person sees: the table of the model, the progress bar or plain lines, the last line."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rnnlab.errors import one_line


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(loss: float) -> str:
    """Four decimals, or two digits of what is smaller than 0.01."""
    return f"{loss:.4f}" if abs(loss) >= 0.01 or not loss else f"{loss:.2g}"


def say(text: str) -> None:
    """A line on standard output, at once."""
    print(text, flush=True)


def warn(text: str) -> None:
    """A warning, on standard error."""
    with contextlib.suppress(OSError):
        print(f"rnnlab: warning: {one_line(text)}", file=sys.stderr, flush=True)


class _Output:
    """Standard output, which may go away (`| head`, a terminal that is closed) or be a file on a full
    disk: a run is worth more than its output, so that from then on there is none."""

    def __init__(self):
        # And not what stands in its place while there is a bar.
        self._stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._or_nothing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._or_nothing():
            self._stream.flush()

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class Display:
    """A context that shows a run's progress: a bar on a terminal, plain lines elsewhere.

    quiet: nothing at all, warnings included: another process says it. silent: the name of a run of
        which warnings alone are shown, under that name. measure: what the loss counts, a unit.
    """

    def __init__(
        self, steps: int, unit: str, quiet: bool = False, silent: str = "", measure: str = "nats"
    ):
        tty = sys.stdout is not None and sys.stdout.isatty()  # it is None where it was closed
        # Samples are shown as they are: ":b:" in the text of a program is no emoji. A notebook gets
        # plain lines: it says that colours are wanted, and would make a page of every line.
        self._console = Console(
            file=cast(IO[str], _Output()) if sys.stdout is not None else None,
            highlight=False,
            soft_wrap=True,
            markup=False,
            emoji=False,
            quiet=bool(quiet or silent),
            force_terminal=None if tty else False,
            force_jupyter=False,
        )
        self._name = f"{silent}: " if silent else ""
        self._steps, self._unit, self._quiet, self._measure = steps, unit, quiet, measure
        self._began = time.monotonic()
        self._start = 0
        self._progress = None
        if self._console.is_terminal and tty and not (quiet or silent):
            self._progress = Progress(
                TextColumn("{task.completed:>6.0f}/{task.total:.0f}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar = self._progress.add_task("", total=steps, text="compiling ...")

    def __enter__(self) -> "Display":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, text: str) -> None:
        """A line, or several, above the bar; "?" for what the terminal's encoding lacks."""
        encoding = self._console.encoding
        self._console.print(text.encode(encoding, "replace").decode(encoding))
        self._console.file.flush()

    def warn(self, text: str) -> None:
        """A warning, on standard error."""
        if not self._quiet:
            warn(self._name + text)

    def model(self, rows: tuple[tuple[str, str], ...], title: str) -> None:
        """The table of parameters: rows of (name, shape "D x H"), the shape "" being a scalar."""
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("parameter")
        table.add_column("shape", justify="right")
        table.add_column("count", justify="right")
        total = 0
        for name, shape in rows:
            count = math.prod(int(n) for n in shape.split(" x ") if n)
            total += count
            table.add_row(name, shape, f"{count:,}")
        table.add_section()
        table.add_row("all", "", f"{total:,}")
        self._console.print(table)

    def facts(self, facts: dict[str, Any]) -> None:
        """One line of what is known of the data."""
        self.say(
            ", ".join(
                f"{name.replace('_', ' ')} {value:,}"
                if isinstance(value, int)
                else f"{name.replace('_', ' ')} {value}"
                for name, value in facts.items()
            )
        )

    def resume(self, step: int) -> None:
        """Progress starts at `step`."""
        self._start, self._began = step, time.monotonic()
        if self._progress is not None:
            self._progress.update(self._bar, completed=step)

    def tick(self, step: int) -> None:
        """The step that is under way."""
        if self._progress is not None:
            self._progress.update(self._bar, completed=step)

    def row(self, row: dict[str, Any]) -> None:
        """A row of metrics: in the bar's text, or a line of its own."""
        step, loss = row["step"], float(row["loss"])
        if row["split"] == "valid":
            text = f"step {step:>6}  validation {number(loss)} {self._measure}/{self._unit}"
            if "loss_random_windows" in row:
                text += (
                    f" ({row[f'bits_per_{self._unit}']:.4f} bits, "
                    f"perplexity {row['perplexity']:.2f}; "
                    f"random windows {row['loss_random_windows']:.4f})"
                )
            if "baseline_loss" in row:
                text += f" (baseline {number(row['baseline_loss'])})"
            if "error" in row:
                text += f", {100 * row['error']:.1f}% of the sequences wrong"
            elif "loss_random_windows" not in row:
                said = ("step", "split", "loss", "baseline_loss", "seconds")
                others = {name: value for name, value in row.items() if name not in said}
                text += "".join(f", {n.replace('_', ' ')} {number(v)}" for n, v in others.items())
            self.say(text)
            return
        measured = row.get(f"{self._unit}s_per_second")  # not yet, if only one step was taken
        rate = "" if measured is None else f"{measured:,.0f} {self._unit}s/s"
        if self._progress is not None:
            self._progress.update(self._bar, completed=step, text=f"loss {number(loss)}  {rate}")
            return
        done = step - self._start
        left = (time.monotonic() - self._began) / max(done, 1) * (self._steps - step)
        self.say(
            f"step {step:>6}/{self._steps}  loss {number(loss)}  |g| {row['grad_norm']:.3f}  "
            f"clipped {100 * row['clipped']:.0f}%  {rate}  {clock(left)} left"
        )
