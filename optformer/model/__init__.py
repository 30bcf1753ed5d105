"""The model: a T5-style encoder of the metadata and a decoder over trials, in two layouts with one interface.

Needs only jax, flax and safetensors, neither Vizier nor TensorFlow.
"""

from optformer.model.build import Model, abstract_model, build_model, count_parameters
from optformer.model.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
)
from optformer.model.config import ModelConfig
from optformer.model.flat import FlatModel
from optformer.model.interface import History, Logits
from optformer.model.loss import Loss, log_density, loss
from optformer.model.pooled import PooledModel

__all__ = [
    "CheckpointError",
    "CheckpointInfo",
    "FlatModel",
    "History",
    "Logits",
    "Loss",
    "Model",
    "ModelConfig",
    "PooledModel",
    "abstract_model",
    "build_model",
    "count_parameters",
    "load_checkpoint",
    "log_density",
    "loss",
    "read_checkpoint_info",
    "save_checkpoint",
]
