"""Validation: losses of the averaged weights on studies that are not trained on."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from optformer.serialization.batch import StudyBatch
from optformer.train.config import TrainConfig
from optformer.train.corpus_route import CorpusParts, corpus_batch
from optformer.train.metrics import Window
from optformer.train.step import VALIDATION, Steps, TrainState


def validate(
    config: TrainConfig, mesh: Mesh, steps: Steps, state: TrainState, corpus: CorpusParts | None
) -> dict[str, float]:
    """Losses of the averaged weights on fixed studies: `validation_prior/function_loss` and so on.

    Studies of the prior come from a separate key, those of the corpus from its held-out part.  A source without studies
    is left out.  Batches are as large as the source's part of a training batch.
    """
    held_out = None if corpus is None else corpus.validation
    sources: dict[str, Callable[[int], StudyBatch]] = {}
    if config.prior_studies:
        sources["validation_prior"] = functools.partial(_validation_prior, steps)
    if held_out is not None:
        sources["validation_corpus"] = lambda index: corpus_batch(held_out, 0, index, config, mesh)
    results: dict[str, float] = {}
    for kind, draw in sources.items():
        window = Window()
        for index in range(config.eval_batches):
            metrics = jax.device_get(steps.validate(state.average, draw(index)))
            window.add({name: float(value) for name, value in metrics.items()})
        results |= {f"{kind}/{name}": value for name, value in window.means().items()}
    return results


def _validation_prior(steps: Steps, index: int) -> StudyBatch:
    batch = steps.draw_prior(VALIDATION, index)
    assert batch is not None, "only asked of a config with prior studies"
    return batch


def selection_loss(config: TrainConfig, validation: dict[str, float]) -> float | None:
    """Function loss on validation, with sources weighted as in training; selects the best checkpoint."""
    weights = {"validation_prior": 1 - config.corpus_fraction, "validation_corpus": config.corpus_fraction}
    known = {kind: validation.get(f"{kind}/function_loss") for kind in weights}
    total = sum(weights[kind] for kind, value in known.items() if value is not None)
    if total == 0:
        return None
    return sum(weights[kind] * value for kind, value in known.items() if value is not None) / total
