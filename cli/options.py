"""Options that several commands have, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

UseCase = Annotated[str, typer.Argument(help="use case")]
Labels = Annotated[Path | None, typer.Option(help="file with event_id, is_fraud, known_at; default: column is_fraud")]
Columns = Annotated[str, typer.Option(help="field=COLUMN,... for columns with other names")]
Delay = Annotated[str, typer.Option(help="when a column is_fraud became known, after the event")]
Json = Annotated[bool, typer.Option("--json", help="the last line is JSON")]
Trials = Annotated[
    int | None, typer.Option(min=0, help="search parameters: most trials for a layer; default: pipeline.yaml")
]
Seconds = Annotated[
    float | None, typer.Option("--search-seconds", min=0, help="most seconds for the search; default: pipeline.yaml")
]
