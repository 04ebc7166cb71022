"""One settings object. Values come from the environment, then from what `riskflow up` wrote, then from defaults."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from riskflow.errors import SettingsError

PROJECT = Path(__file__).resolve().parent.parent
PREFIX = "RISKFLOW_"
REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://")  # riskflow/connect.py


def home_folder() -> Path:
    """The one ignored folder in which everything local lives: services, data, keys, lake."""
    return Path(os.environ.get(PREFIX + "HOME", PROJECT / ".riskflow")).resolve()


def kernels_folder() -> Path:
    """Where compiled loops are kept: with the checkout, whatever HOME is, as they are named by their content."""
    shared = PROJECT / ".riskflow" / "kernels"
    try:
        shared.mkdir(parents=True, exist_ok=True)
    except OSError:
        return home_folder() / "kernels"
    return shared if os.access(shared, os.W_OK) else home_folder() / "kernels"


class Settings(BaseSettings):
    """Every value that may differ between machines. Environment names are `RISKFLOW_` + the name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, validate_default=True)

    home: Path = Field(default_factory=home_folder, description="folder for local services, data and keys")
    kafka: Annotated[str, Field(description="bootstrap servers, host:port[,host:port]")] = "127.0.0.1:9092"
    redis_url: Annotated[str, Field(description="redis://host:port/db, or redis+cluster://host:port,host:port")] = (
        "redis://127.0.0.1:6379/0"
    )
    airflow_url: Annotated[str, Field(description="base URL of Airflow's API server")] = "http://127.0.0.1:8080"
    airflow_user: str = "admin"
    airflow_password: SecretStr = SecretStr("admin")
    smtp: Annotated[SecretStr | None, Field(description="smtp://[user:password@]host[:port] for alerts by mail")] = None
    mail_from: Annotated[str, Field(description="who alerts by mail come from")] = "riskflow@localhost"
    serving_url: str = "http://127.0.0.1:8000"
    usecases: Annotated[Path, Field(description="folder with one folder for each use case")] = PROJECT / "usecases"
    dags: Annotated[Path, Field(description="folder of Airflow's DAG files, one for each use case")] = PROJECT / "dags"
    lake: Annotated[Path | None, Field(description="folder of the Parquet archive; default: HOME/lake")] = None
    keys: Annotated[Path | None, Field(description="folder of the signing keys; default: HOME/keys")] = None
    topic_prefix: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._-]*\.)?$", description="prefix of topics")] = ""
    partitions: Annotated[int, Field(ge=1, le=1024, description="partitions of each topic that is made")] = 8
    replication: Annotated[int, Field(ge=1, le=10)] = 1
    batch_rows: Annotated[int, Field(ge=1, le=65536, description="rows of waiting blocks merged into one batch")] = 8192
    poll_s: Annotated[float, Field(gt=0, le=60, description="seconds between looks at the registry")] = 1.0
    sweep_s: Annotated[
        float, Field(ge=0, le=3600, description="seconds between steps that delete records of dead entities; 0 = off")
    ] = 1.0
    drift_s: Annotated[float, Field(ge=0, le=3600, description="seconds between drift snapshots; 0 = off")] = 30.0
    drift_share: Annotated[
        float | None, Field(gt=0, le=1, description="of events counted for drift; default: by the number of inputs")
    ] = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_port: Annotated[int, Field(ge=0, le=65535, description="worker metrics; 0 = off")] = 0

    @field_validator("kafka")
    @classmethod
    def _kafka(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError("expected host:port, or several of them separated by commas")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        if not value.startswith(REDIS_SCHEMES):
            raise ValueError(f"expected a URL that starts with one of {', '.join(REDIS_SCHEMES)}")
        return value

    @property
    def lake_folder(self) -> Path:
        return self.lake or self.home / "lake"

    @property
    def keys_folder(self) -> Path:
        return self.keys or self.home / "keys"

    @property
    def services_file(self) -> Path:
        """What `riskflow up` writes: NAME=value lines with the addresses of the services it started."""
        return self.home / "services.env"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        from pydantic_settings import DotEnvSettingsSource

        started = DotEnvSettingsSource(settings_cls, env_file=home_folder() / "services.env")
        return init_settings, env_settings, started


def load(**values: object) -> Settings:
    """Settings from all sources; raises SettingsError naming key, value and expectation."""
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(dict(e)) for e in error.errors())) from None


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return load()


def _explain(error: dict[str, object]) -> str:
    location = error["loc"]
    key = PREFIX + str(location[0] if isinstance(location, tuple) and location else "?").upper()
    return f"{key}={error.get('input')!r}: {str(error['msg']).removeprefix('Value error, ')}"
