"""What a run is made of: defaults, then a TOML file, then ``ASYNCLAVE_*`` variables, then flags."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.complaints import complaints_of
from strategies.privacy.settings import Privacy
from strategies.release import ReleaseRule


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Which data, and how it is split over the clients."""

    name: Literal["mnist-5k"] = "mnist-5k"
    partition: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(default=0.3, gt=0)


class DevicesConfig(_Section):
    """The simulated edge devices. Durations are in median task durations."""

    clients: int = Field(default=20, ge=2, le=10_000)
    in_flight: float = Field(default=1.0, gt=0, le=1)
    speed: Literal["lognormal"] = "lognormal"
    sigma: float = Field(default=1.2, ge=0)
    jitter: float = Field(default=0.1, ge=0)
    slow_hold_rare: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainConfig(_Section):
    """Local training on each client."""

    hidden: int = Field(default=64, ge=1, le=1_000_000)
    local_epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=32, ge=1)
    lr: float = Field(default=0.05, gt=0)


class StrategyConfig(_Section):
    """The aggregation recipe; ``buffer_size`` is the K of the window or buffer."""

    name: Literal["async-wa", "fedbuff", "fedasync"] = "async-wa"
    buffer_size: int = Field(default=5, ge=1)


class PrivacyConfig(_Section):
    """Differential privacy of the released models; see `Privacy`."""

    clip: float
    noise_multiplier: float
    delta: float = 1e-5
    max_epsilon: float

    def privacy(self) -> Privacy:
        """Return the settings; raises BadOption."""
        return Privacy(**self.model_dump())


class TrustConfig(_Section):
    """The release rule and limits that the enclave enforces.

    ``k`` is the least number of distinct clients behind one released model; ``None`` means the
    strategy's buffer size. ``max_leverage`` bounds how far k - 1 colluding clients can work out
    another's update; ``None`` sets no bound. ``dp`` makes releases differentially private.
    """

    k: int | None = Field(default=None, ge=2)
    max_leverage: float | None = Field(default=None, gt=0, lt=1)
    max_staleness: int = Field(default=200, ge=0)
    max_norm: float = Field(default=100.0, gt=0, allow_inf_nan=True)
    max_examples: int = Field(100_000, ge=1)
    dp: PrivacyConfig | None = None


class RunSection(_Section):
    """How long, from which seed, and where the results go."""

    merges: int = Field(default=300, ge=1)
    seed: int = Field(default=1, ge=0, le=2**53)
    target_accuracy: float | None = Field(default=None, gt=0, lt=1)
    baseline: bool = True
    output: Path = Path("runs")


class RunConfig(BaseSettings):
    """The whole configuration of ``asynclave run``."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="ASYNCLAVE_", env_nested_delimiter="__"
    )
    data: DataConfig = DataConfig()
    devices: DevicesConfig = DevicesConfig()
    train: TrainConfig = TrainConfig()
    strategy: StrategyConfig = StrategyConfig()
    trust: TrustConfig = TrustConfig()
    run: RunSection = RunSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over environment variables, which win over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def k(self) -> int:
        """Least number of distinct clients behind one released model."""
        return self.trust.k or max(2, self.strategy.buffer_size)

    @property
    def privacy(self) -> Privacy | None:
        """Differential privacy of the released models; raises BadOption."""
        return None if self.trust.dp is None else self.trust.dp.privacy()

    @property
    def release_rule(self) -> ReleaseRule:
        """What a merged model must satisfy before it is released."""
        return ReleaseRule(self.k, max_leverage=self.trust.max_leverage)


def load_config(path: Path | None, overrides: dict[str, dict[str, Any]]) -> RunConfig:
    """Read the configuration of a run.

    Parameters
    ----------
    path : Path or None
        A TOML file with the sections of `RunConfig`; ``None`` for the defaults.
    overrides : dict
        Section name to the values given as flags; ``None`` values are ignored.

    Raises
    ------
    ConfigInvalid
        If the file cannot be read, or a key or value does not fit.
    """
    if path is not None and not path.is_file():
        what = f"{path} is no file" if path.exists() else f"There is no configuration file {path}"
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{what}.")

    class FromFile(RunConfig):
        model_config = SettingsConfigDict(toml_file=path)

    given: dict[str, Any] = {
        section: kept
        for section, values in overrides.items()
        if (kept := {key: value for key, value in values.items() if value is not None})
    }
    try:
        return FromFile(**given)
    except ValidationError as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, complaints_of(error)) from None
    except SettingsError as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"An ASYNCLAVE_* variable: {error}.") from None
    except OSError as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{path} cannot be read: {error.strerror}."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path} is not valid TOML: {error}.") from None
