"""The `base` model on the synthetic prior: one data-centre GPU, 25 minutes.

    optformer train base_gpu --workdir DIR --max-minutes 9     # again, until it says `finished`
    optformer train base_gpu --workdir DIR --export base-1

`python -m optformer.train` takes the same arguments on a machine without Vizier.

Hardware: one GPU with 80 GB; bfloat16.
Time: not yet measured; `steps` is a guess at 25 minutes.
Score: not yet run.
"""

from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `base` model on studies of up to 128 trials and 20 parameters."""
    return TrainConfig(
        model=ModelConfig.base(),
        shape=BatchShape(trials=128, slots=20, text=128, policy_trials=8),
        prior_steps=4,
        batch_size=256,
        steps=16_000,
        # The rates of `nano` for runs of this length.  With higher ones, losses fall faster for some thousand steps and
        # then rise (docs/decisions/0025-muon-rate.md).
        optimizer=OptimizerConfig(
            matrix_learning_rate=0.008, learning_rate=1e-3, measured_on="nano", warmup_steps=500, weight_decay=0.05
        ),
        ema_decay=0.9995,
        checkpoint_every=5_000,
        checkpoint_minutes=4.0,
        log_every=100,
        eval_every=2_000,
        eval_batches=4,
    )
