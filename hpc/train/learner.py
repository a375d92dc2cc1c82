"""The network with its loss inside: what DeepSpeed wraps, and what one forward pass calls.

Legend: B rows (always 1), L positions of this rank, N = L, D hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hpc.errors import StageError
from hpc.train import loss
from hpc.train.attention import Bounds

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OWN_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models that change the logits after their head: the chunked loss would not see it."""


class Learner(nn.Module):
    """A causal language model that returns its loss.

    Args:
        network: as transformers builds it, with the attention of hpc.train.attention.
        loss_chunk: positions whose logits exist at once; 0 takes the network's own logits, all at once.
    """

    def __init__(self, network: Any, loss_chunk: int) -> None:
        super().__init__()
        self.network, self.chunked = network, loss_chunk > 0
        if self.chunked:
            loss.attach(network.get_output_embeddings(), loss_chunk)

    def forward(
        self, ids_BL: Tensor, positions_BL: Tensor, targets_N: Tensor, weights_N: Tensor, bounds: Bounds
    ) -> Tensor:
        """The sum of weight x -log p(target) over this rank's positions; a scalar in fp32."""
        inputs = {"input_ids": ids_BL, "position_ids": positions_BL, "use_cache": False, "bounds": bounds}
        if not self.chunked:
            return loss.loss_of_logits(self.network(**inputs).logits[0], targets_N, weights_N)
        hidden_ND = self.network.base_model(**inputs).last_hidden_state[0]
        head = self.network.get_output_embeddings()
        found: Tensor = head(hidden_ND, targets_N, weights_N)
        return found


def check(form: PretrainedConfig, longest: int, loss_chunk: int) -> None:
    """Refuse a model whose forward pass these modules would not compute as it is meant.

    Args:
        form: the model's configuration.
        longest: positions of the longest document.

    Raises:
        StageError: a sliding window shorter than a document, attention dropout, or logits changed after the head.
    """
    window = getattr(form, "sliding_window", None) if getattr(form, "use_sliding_window", True) else None
    own = [name for name in OWN_LOGITS if getattr(form, name, None) not in (None, 1.0)]
    refused = [
        (window is not None and longest > window, f"its attention sees {window} tokens back, an example has {longest}"),
        (bool(getattr(form, "attention_dropout", 0.0)), "it has attention dropout"),
        (bool(own) and loss_chunk > 0, f"{', '.join(own)} changes its logits: set train.loss_chunk=0"),
    ]
    why = [text for true, text in refused if true]
    if why:
        raise StageError(
            "this model cannot be trained here as it is meant",
            where=f"config.json: model_type {form.model_type}",
            why="; ".join(why),
            next="choose another model, lower train.max_tokens, or change the setting named",
        )
