"""Fine-tuning: a run that begins with the weights of a checkpoint."""

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
"""Parts that can be added to a checkpoint without them: fields of its config, and their values without the part."""


def with_initial_model(config: TrainConfig) -> TrainConfig:
    """The config with the sizes of the checkpoint that `config.init` names; as it is without one.

    `config.model` may ask for parts in `GROWN` that the checkpoint lacks; they are added with fresh weights.

    Raises:
      ConfigError: there is no such checkpoint, or it cannot be read, or `config.model` asks for other sizes.
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
        raise ConfigError(
            f"init={config.init} has a model of its own, and model is set to another: leave model out, or init"
        )
    return dataclasses.replace(config, model=dataclasses.replace(model, **grown))


def initial_model(config: TrainConfig) -> Model | None:
    """The model that a new run begins with; None for fresh weights.

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
    """Lines that compare two validations, source by source: nats of log density, and of policy loss."""
    lines = []
    for kind, held_out in (("validation_corpus", "held-out studies of the corpus"), ("validation_prior", "the prior")):
        density, policy = f"{kind}/function_density", f"{kind}/policy_loss"
        if density in before and density in after:
            lines.append(
                f"on {held_out}: function density {before[density]:+.3f} before, {after[density]:+.3f} after; "
                f"policy loss {before[policy]:.3f} before, {after[policy]:.3f} after"
            )
    return lines
