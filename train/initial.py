"""Fine-tuning: a run that starts from the weights of a checkpoint."""

import dataclasses
from collections.abc import Mapping

from optformer.model import Model, ModelConfig, load_checkpoint
from optformer.model.checkpoint import CheckpointError, read_checkpoint_info
from optformer.pretrained import checkpoint_path
from optformer.serialization.vocabulary import Vocabulary
from optformer.train.config import ConfigError, TrainConfig
from optformer.train.growth import GROWN, grow, is_growth


def with_initial_model(config: TrainConfig) -> TrainConfig:
    """The config with the sizes of the checkpoint `config.init`; unchanged if that is None.

    `config.model` may have parts that the checkpoint lacks, more decoder layers (other than the number that `nano` has,
    which counts as not set), and more experts: see `growth.py`.

    Raises:
      ConfigError: the checkpoint does not exist, cannot be read, or has other sizes than `config.model`.
    """
    if config.init is None:
        return config
    try:
        model = read_checkpoint_info(checkpoint_path(config.init)).config
    except (ValueError, CheckpointError) as error:
        raise ConfigError(f"init={config.init}: {error}") from error
    asked, unset = config.model, ModelConfig.nano()
    # Sizes that are left at those of `nano` are the checkpoint's; parts and experts that are not set, too.
    if dataclasses.replace(asked, **GROWN, decoder_layers=unset.decoder_layers) == unset:
        layers = asked.decoder_layers if asked.decoder_layers != unset.decoder_layers else model.decoder_layers
        asked = dataclasses.replace(model, **{name: getattr(asked, name) for name in GROWN}, decoder_layers=layers)
    kept = {name: getattr(asked, name) or getattr(model, name) for name in GROWN}
    larger = dataclasses.replace(asked, **kept)
    if not is_growth(model, larger):
        raise ConfigError(f"init={config.init} determines the model, but model is set to another: set only one of them")
    return dataclasses.replace(config, model=larger)


def initial_model(config: TrainConfig) -> Model | None:
    """The model from which a new run starts; None for random weights.

    Raises:
      CheckpointError: the weights cannot be read, or belong to another text vocabulary.
    """
    if config.init is None:
        return None
    loaded, _ = load_checkpoint(checkpoint_path(config.init), vocabulary=Vocabulary.default().fingerprint)
    return grow(loaded, config.model, seed=config.seed)


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
