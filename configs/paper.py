"""The model of Chen et al. (2022): T5 1.1 base, 249M parameters, one position per token, on a corpus of logged studies.

    optformer train paper --workdir DIR --set corpus=DIR     # on every host of a pod; see docs/pods.md

As in the paper and its code: the layout, the 33,152-row table, one-hot labels, batches of 256, 100,000 steps.  Instead
of Adafactor with an inverse square root schedule, this config uses AdamW with a cosine schedule.

Hardware: a pod of 16 devices with 16 GB or more each, or 8 with 80 GB.
Time: not measured; the paper does not state its own.
Score: not yet run.
"""

from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import MeshConfig, OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `paper` model on studies of up to 100 trials and 20 parameters: 2,301 decoder tokens."""
    return TrainConfig(
        model=ModelConfig.paper(),
        shape=BatchShape(trials=100, slots=20, text=512, policy_trials=100),
        corpus_fraction=1.0,
        batch_size=256,
        accumulate=4,
        remat=True,
        steps=100_000,
        optimizer=OptimizerConfig(matrices="adamw", learning_rate=3e-4, warmup_steps=10_000),
        ema_decay=0.9999,
        mesh=MeshConfig(fsdp=4),
        checkpoint_every=2_000,
        log_every=50,
        eval_every=2_000,
    )
