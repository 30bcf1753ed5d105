"""Fine-tuning: a run that starts from the weights of a checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from flax import nnx

from optformer.model import Model, ModelConfig, build_model, load_checkpoint
from optformer.model.checkpoint import CheckpointError, read_checkpoint_info
from optformer.pretrained import checkpoint_path
from optformer.serialization.vocabulary import Vocabulary
from optformer.train.config import ConfigError, TrainConfig

GROWN: Final[Mapping[str, Any]] = {
    "policy_recall": False,
    "policy_succession": False,
    "policy_header": False,
    "experts": 0,
}
"""Parts that can be added to a checkpoint: config field -> its value without the part."""


def with_initial_model(config: TrainConfig) -> TrainConfig:
    """The config with the sizes of the checkpoint `config.init`; unchanged if that is None.

    `config.model` may have parts in `GROWN` that the checkpoint lacks; they are added with random weights.

    Raises:
      ConfigError: the checkpoint does not exist, cannot be read, or has other sizes than `config.model`.
    """
    if config.init is None:
        return config
    try:
        model = read_checkpoint_info(checkpoint_path(config.init)).config
    except (ValueError, CheckpointError) as error:
        raise ConfigError(f"init={config.init}: {error}") from error
    grown: dict[str, Any] = {name: getattr(config.model, name) or getattr(model, name) for name in GROWN}
    sizes = (ModelConfig.nano(), dataclasses.replace(model, **GROWN))
    other = any(getattr(model, name) and getattr(model, name) != value for name, value in grown.items())
    if other or dataclasses.replace(config.model, **GROWN) not in sizes:
        raise ConfigError(f"init={config.init} determines the model, but model is set to another: set only one of them")
    return dataclasses.replace(config, model=dataclasses.replace(model, **grown))


def initial_model(config: TrainConfig) -> Model | None:
    """The model from which a new run starts; None for random weights.

    Raises:
      CheckpointError: the weights cannot be read, or belong to another text vocabulary.
    """
    if config.init is None:
        return None
    loaded, _ = load_checkpoint(checkpoint_path(config.init), vocabulary=Vocabulary.default().fingerprint)
    if loaded.config == config.model:
        return loaded
    grown = build_model(config.model, seed=config.seed)
    known = dict(nnx.to_flat_state(nnx.state(loaded, nnx.Param)))
    weights = nnx.to_flat_state(nnx.state(grown, nnx.Param))
    nnx.update(grown, nnx.from_flat_state([(path, known.get(path, leaf)) for path, leaf in weights]))
    return grown


def gains(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Lines that compare two validations per source: log density and policy loss in nats."""
    lines = []
    for kind, held_out in (("validation_corpus", "held-out studies of the corpus"), ("validation_prior", "the prior")):
        density, policy = f"{kind}/function_density", f"{kind}/policy_loss"
        if density in before and density in after:
            lines.append(
                f"on {held_out}: function density {before[density]:+.3f} before, {after[density]:+.3f} after; "
                f"policy loss {before[policy]:.3f} before, {after[policy]:.3f} after"
            )
    return lines
