"""A few windows of general text in each step, so that training on preferences does not cost the model its language."""

from __future__ import annotations

__all__ = ()

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ropo.core.errors import UserError
from ropo.core.files import read_text
from ropo.lm.capacity import check_ids, position_limit
from ropo.lm.tokens import first_tokens, text_windows
from ropo.training.reference import keeps_reference

WINDOW, WINDOWS = 128, 4  # tokens a window, windows a batch
_MOST = 2048  # windows that are read of a text, a quarter of a million tokens
_CHARACTERS = 8 * WINDOW * _MOST  # which hold so many tokens of nearly every text


class AnchorText(TrainerCallback):
    """Choose the windows of each batch, and compute the loss on them.

    `nll` is the mean negative log-likelihood of a token, as in the pre-training mix of InstructGPT (Ouyang et al. 2022,
    arXiv 2203.02155, equation 2). `kl` is the mean over positions of KL(pi_ref || pi) of the next token, over the whole
    vocabulary: it asks for what the reference says, right or wrong (Li & Hoiem 2016, arXiv 1606.09282), and so teaches
    nothing that is in the text.

    Windows are drawn without replacement, in an order that the seed and the step give alone, so that a resumed run
    reads on where it was. They have one length, and no padding.

    Raises:
        UserError: If the text has fewer than two tokens, or `kl` has no reference.

    Cost: 512 tokens per batch, one forward and backward pass; `kl` one more forward pass, and logits of the whole
    vocabulary twice.
    """

    def __init__(self, trainer: Any) -> None:
        options = trainer.args
        if options.anchor_loss == "kl" and not keeps_reference(trainer):
            raise UserError(
                "anchor_loss: kl needs the reference in training, and its log-probs were computed in advance or it "
                "moves; give nll, or leave out precompute_ref_log_probs or sync_ref_model"
            )
        self.trainer, self.weight, self.kind = trainer, options.anchor_weight, options.anchor_loss
        self.windows = _windows(trainer.model, trainer.processing_class, options.anchor_text)
        self.batch = 0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Count the batches of an optimizer step from 0."""
        self.batch = 0

    def loss(self, reference: AbstractContextManager[Any]) -> Float[Tensor, ""]:
        """Compute the weighted loss on the next windows."""
        ids = self._next().to(self.trainer.args.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        model = self.trainer.model
        if self.kind == "nll":
            log_probs = model(**inputs, labels=ids, fused_lm_head=True).log_probs
            found = -log_probs[:, 1 - ids.shape[1] :].mean()  # without virtual tokens of prompt learning
        else:
            policy = model(**inputs).logits
            with torch.no_grad(), reference as other:
                before = other(**inputs).logits
            found = kl_of_next(policy[:, -ids.shape[1] : -1], before[:, -ids.shape[1] : -1])
        gathered = self.trainer.accelerator.gather(found.detach()[None])
        self.trainer._metrics["train"][f"anchor/{self.kind}"].append(gathered.mean().item())
        return self.weight * found

    def _next(self) -> Int[Tensor, "rows window"]:
        """Return the windows of this process's next batch, and count it."""
        args, step = self.trainer.args, self.trainer.state.global_step
        number = step * args.gradient_accumulation_steps + self.batch
        self.batch += 1
        return self.windows[windows_of(number * args.world_size + args.process_index, len(self.windows), args.seed)]


def windows_of(number: int, count: int, seed: int, most: int = WINDOWS) -> list[int]:
    """Return which windows the batch of a number reads: the next ones of a text that is shuffled anew each time round.

    Args:
        number: The batch's, counted over all processes from the start of training.
        count: Windows of the text.
        seed: Seed of the order.
        most: Windows a batch, no more than there are.
    """
    places = range(number * min(most, count), (number + 1) * min(most, count))
    orders: dict[int, list[int]] = {}
    for time in {place // count for place in places}:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + time)
        orders[time] = torch.randperm(count, generator=generator).tolist()
    return [orders[place // count][place % count] for place in places]


def kl_of_next(
    policy: Float[Tensor, "rows positions vocabulary"], reference: Float[Tensor, "rows positions vocabulary"]
) -> Float[Tensor, ""]:
    """Compute the mean over positions of KL(pi_ref || pi) of the next token, in nats, from logits.

    Cost: float32 log-probs of both.
    """
    size = policy.shape[0] * policy.shape[1]
    before = reference.float().log_softmax(dim=-1)
    return kl_div(policy.float().log_softmax(dim=-1), before, reduction="sum", log_target=True) / size


def _windows(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> Int[Tensor, "windows tokens"]:
    """Read a text and cut it into windows of one length."""
    text = read_text(Path(name), "anchor_text")[:_CHARACTERS]
    tokens = len(tokenizer(text[: 40 * WINDOW], add_special_tokens=False)["input_ids"])
    if tokens < 2:
        raise UserError(
            f"anchor_text {name}: needs at least two tokens of plain text, got {tokens}; give a longer file, of some "
            "thousand tokens"
        )
    length = min(WINDOW, position_limit(model) or WINDOW, tokens + len(first_tokens(tokenizer)))
    windows = [window.ids for window in text_windows(tokenizer, text, length, _MOST)]
    whole = [ids for ids in windows if len(ids) == length]
    check_ids(model, {token for ids in whole for token in ids}, tokenizer)
    return torch.tensor(whole)
