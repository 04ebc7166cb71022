"""What `airflow-init` does in docker-compose: secrets and users once, then the database.

Keys are made here and kept in a volume, so that none stands in the compose file and all of Airflow's parts share them.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from ops.airflow import new_key, write_private
from riskflow.settings import load

KEYS = ("fernet.key", "api.key", "jwt.key")


def write_secrets(folder: Path) -> None:
    """One key each; a key that is there stays, or what it has signed and encrypted would be lost."""
    for name in KEYS:
        if not (folder / name).exists():
            write_private(folder / name, new_key())


def write_users(folder: Path, name: str, password: str) -> None:
    write_private(folder / "passwords.json", json.dumps({name: password}))


def main() -> None:
    folder = Path(os.environ["AIRFLOW_HOME"])
    conf = load()
    write_secrets(folder)
    write_users(folder, conf.airflow_user, conf.airflow_password.get_secret_value())
    subprocess.run(["airflow", "db", "migrate"], check=True)


if __name__ == "__main__":
    main()
