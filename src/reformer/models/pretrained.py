"""What all Reformer models share as models of transformers: initialisation, and what others call on any model."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from reformer.errors import InputError
from reformer.layers.convolution import ShortConvolution
from reformer.layers.positions import PositionTable
from reformer.layers.streams import writes_to_stream
from reformer.models.config import ReformerConfig

logger = logging.get_logger(__name__)

POSITION_STD = 0.1


class ReformerPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving that all Reformer models share.

    Initialisation: linear weights N(0, 1 / inputs), those that write to a stream divided by sqrt(2 * layers);
    token embeddings N(0, 1), or N(0, 1 / width) where they are the output layer too; positions N(0, 0.1^2); biases
    0; norms 1; convolutions as `ShortConvolution` says.
    """

    config: ReformerConfig
    config_class = ReformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    writers_per_layer = 2

    def __init__(self, config: ReformerConfig) -> None:
        config.refresh()  # it may have been changed since it was made
        super().__init__(config)
        # A block is one place of a device map, and one unit of FSDP2.
        self._no_split_modules = ["ResidualBlock" if config.residual == "single" else "ReversibleBlock"]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do, as in `ReformerConfig`."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            writers = self.config.num_hidden_layers * self.writers_per_layer if writes_to_stream(module) else 1
            init.normal_(module.weight, std=(module.in_features * writers) ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, PositionTable):
            init.normal_(module.weight, std=POSITION_STD)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5 if self.config.tie_word_embeddings else 1.0)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
            if isinstance(module, nn.LayerNorm):
                init.zeros_(module.bias)
        elif isinstance(module, ShortConvolution):
            init.copy_(module.weight, module.initial_weight())

    def _shaped(self, output: Any, return_dict: bool | None) -> Any:
        """An output as the caller asked for it, or else the configuration."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the table of tokens and the layer that predicts them (transformers).

        Raises InputError where a special token would be none.
        """
        names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
        for name in names if new_num_tokens is not None else ():
            token = getattr(self.config, name)
            if token is not None and token >= new_num_tokens:
                raise InputError(
                    f"{name}={token} would be outside of {new_num_tokens} tokens; set model.config.{name} first"
                )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Nothing to do, as with `gradient_checkpointing_enable`."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **kwargs: Any) -> None:
        """Nothing to do: a reversible model stores no activations of its layers."""
        if self.config.residual == "single":
            logger.warning_once("gradient checkpointing is ignored: a model of one stream keeps its activations")
        elif self.config.reversible:
            logger.warning_once("gradient checkpointing is ignored: a reversible model recovers its activations anyway")
        else:
            logger.warning_once(
                "gradient checkpointing is ignored: use reversible=True, the same function in less memory"
            )


def check_one_stack(config: ReformerConfig, kind: type) -> None:
    """InputError for the configuration of an encoder-decoder, whose weights another class has."""
    if config.is_encoder_decoder:
        raise InputError(
            f"the configuration is an encoder-decoder's, which {kind.__name__} is not; use "
            "ReformerForConditionalGeneration (AutoModelForSeq2SeqLM)"
        )
