"""A model of your own logs in minutes: part of every batch from a corpus, the rest from the synthetic prior.

    optformer corpus import study.db --out corpus.jsonl
    optformer train tiny_logs --workdir DIR --set corpus=corpus.jsonl

Hardware: two CPU cores (0.35 CPU-seconds a step).
Time: four to five minutes with compilation; `--max-minutes` ends it earlier at a checkpoint.
Score: `function_density` on the prior's validation studies 2.00 nats above uniform at step 1232 (39k studies) with the
log of `make demo` as corpus; 1.50 at step 700 on the prior alone.
"""

from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 32 trials and 8 parameters."""
    return TrainConfig(
        model=ModelConfig.nano(),
        shape=BatchShape(trials=32, slots=8, text=128, policy_trials=6),
        corpus_fraction=0.15,
        batch_size=32,
        products="auto",
        accumulate=4,  # parts that stay in a core's cache
        steps=1300,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50),
        ema_decay=0.99,
        checkpoint_every=650,
        eval_every=325,
    )
