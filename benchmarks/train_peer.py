"""The update on PyTorch: transformers' Qwen2.5-VL with its own loss for SFT, and for GRPO what TRL's trainer does.

SFT hands labels to the model, whose loss takes the logits of every position. GRPO takes the logits of the response
(`logits_to_keep`), and each token's log-probability as TRL's `selective_log_softmax` does: the logit gathered less
`logsumexp`, row by row.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.train_work import Work
from pixel_reasoner_jax.processing import Processor

CLIPS = (0.2, 0.35)


class Peer:
    """One side of the comparison; every call of `update` changes the parameters.

    Args:
      work: what to train on.
      phase: "sft" or "grpo".
      dtype: of parameters, moments and computation.
      checkpointing: compute layers again in the backward pass.
      compiled: put the decoder's layers and the loss through `torch.compile`.
    """

    def __init__(
        self,
        work: Work,
        phase: str,
        *,
        dtype: str = "float32",
        checkpointing: bool = False,
        compiled: bool = False,
    ):
        self._phase, self._settings = phase, work.optimizer
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(os.cpu_count())
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(work.directory, dtype=getattr(torch, dtype))
        self.model = model = model.to(device).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self._inputs = {name: tensor.to(device) for name, tensor in inputs(work).items()}
        sequences = work.sequences
        self._train = torch.from_numpy(np.stack([s.train for s in sequences])).to(device)
        self._sampled = torch.from_numpy(np.stack([s.logprobs for s in sequences])).to(device)
        self._advantages = torch.tensor([[s.advantage] for s in sequences], device=device)
        self._grpo = grpo_loss
        if compiled:
            for layer in model.model.language_model.layers:
                layer.compile()
            self._grpo = torch.compile(grpo_loss)
        self._optimizer = None

    def _start(self) -> None:
        """Makes the optimizer, with moments that take memory in the first update as they do in all others."""
        settings = self._settings
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings["weight_decay"]},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        betas = settings["b1"], settings["b2"]
        self._optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=betas, fused=True)
        for p in parameters:
            moments = {name: torch.empty_like(p).fill_(0) for name in ("exp_avg", "exp_avg_sq")}
            self._optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}

    def update(self) -> tuple[float, float]:
        """Forward, backward, clip and step; the loss and the gradient's norm before clipping."""
        if self._optimizer is None:
            self._start()
        loss = getattr(self, f"_{self._phase}_loss")()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._settings["clip_norm"])
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item(), norm.item()

    def device_bytes(self) -> int:
        """The most that was allocated on a GPU; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0

    def device(self) -> str:
        """The GPU's name, or "cpu"."""
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def _sft_loss(self) -> torch.Tensor:
        labels = self._inputs["input_ids"].where(self._train, -100)
        return self.model(**self._inputs, labels=labels, use_cache=False).loss

    def _grpo_loss(self) -> torch.Tensor:
        keep = self._train.shape[1] - int(self._train[0].nonzero()[0])
        logits = self.model(**self._inputs, logits_to_keep=keep + 1, use_cache=False).logits[:, :-1]
        return self._grpo(
            logits,
            self._inputs["input_ids"][:, -keep:],
            self._sampled[:, -keep:],
            self._advantages,
            self._train[:, -keep:],
        )


def grpo_loss(
    logits: torch.Tensor, tokens: torch.Tensor, sampled: torch.Tensor, advantages: torch.Tensor, train: torch.Tensor
) -> torch.Tensor:
    """TRL's clipped loss, its mean over the tokens of the batch (`loss_type="dapo"`), without a KL term."""
    logits = logits.float()
    logprobs = logits.gather(-1, tokens[..., None])[..., 0] - torch.stack([row.logsumexp(-1) for row in logits])
    ratio = (logprobs - sampled).exp()
    clipped = ratio.clamp(1 - CLIPS[0], 1 + CLIPS[1])
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    return (loss * train).sum() / train.sum()


def inputs(work: Work) -> dict[str, torch.Tensor]:
    """What transformers' model takes."""
    processor = Processor.from_pretrained(work.directory)
    tokens = np.stack([s.tokens for s in work.sequences]).astype(np.int64)
    media = [item for s in work.sequences for item in s.media]
    return {
        "input_ids": torch.from_numpy(tokens),
        "attention_mask": torch.ones(tokens.shape, dtype=torch.long),
        # Without these, transformers 5 numbers image tokens like text.
        "mm_token_type_ids": torch.from_numpy((tokens == processor.image_pad).astype(np.int32)),
        "pixel_values": torch.from_numpy(np.concatenate([item.patches for item in media])),
        "image_grid_thw": torch.tensor([item.grid for item in media]),
    }
