"""What the other systems need, in .riskflow/peers: made once, and again when what it is made of changes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.kafka import java
from riskflow.errors import NotReady
from riskflow.settings import PROJECT

HERE = Path(__file__).parent
HOME = PROJECT / ".riskflow" / "peers"
REQUIREMENTS = HERE / "requirements.txt"
STREAMS = HERE / "kafka_streams"
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


@dataclass(frozen=True)
class Environment:
    """Interpreters for the jobs."""

    python: Path
    java: str
    classpath: str


def environment() -> Environment:
    """Makes what is missing; the first time takes a minute or two."""
    once(HOME / "python", [REQUIREMENTS], _make_python)
    once(HOME / "jars", [STREAMS / "pom.xml"], _copy_jars)
    once(HOME / "classes", [STREAMS / "pom.xml", *sorted(STREAMS.rglob("*.java"))], _compile)
    return Environment(HOME / "python" / "bin" / "python", java(), f"{HOME / 'jars'}/*:{HOME / 'classes'}")


def once(folder: Path, sources: Sequence[Path], make: Callable[[Path], None]) -> None:
    """Makes a folder anew unless it was made, to the end, of these very files."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    marker = folder / ".made-of"
    if marker.is_file() and marker.read_text() == digest:
        return
    print(f"bench: making {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    marker.write_text(digest)


def _make_python(folder: Path) -> None:
    uv = PROJECT / _run(["ops/setup.sh", "uv"]).strip()
    _run([str(uv), "venv", "--quiet", "--python", sys.executable, str(folder)])
    interpreter = str(folder / "bin" / "python")
    _run([str(uv), "pip", "sync", "--quiet", "--python", interpreter, "--require-hashes", str(REQUIREMENTS)])


def _copy_jars(folder: Path) -> None:
    given = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    _run(["mvn", "--quiet", "--batch-mode", "--file", str(STREAMS / "pom.xml"), COPY_JARS, *given])


def _compile(folder: Path) -> None:
    compiler = shutil.which("javac", path=str(Path(java()).parent)) or shutil.which("javac")
    if compiler is None:
        raise NotReady(
            "javac is needed for the Kafka Streams job. Install a JDK 17: apt-get install openjdk-17-jdk-headless"
        )
    folder.mkdir()
    _run([compiler, "-cp", f"{HOME / 'jars'}/*", "-d", str(folder), *map(str, sorted(STREAMS.rglob("*.java")))])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"{' '.join(command)[:200]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
