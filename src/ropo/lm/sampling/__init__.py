"""Sample answers from a causal language model: batched, seeded, one run of the prompt for all its samples."""

from ropo.lm.prompts import PromptRecord, describe_prompts, encode_prompts, prompts_digest, read_prompts
from ropo.lm.sampling.batches import Batch, load_sampler_model, plan_batches, sample_answers, sample_batches
from ropo.lm.sampling.sampler import Sampler, model_name, sample_with_journal
from ropo.lm.sampling.settings import Answer, SamplingSettings
from ropo.lm.sampling.vllm_sampler import sampling_backend

__all__ = [
    "Answer",
    "Batch",
    "PromptRecord",
    "Sampler",
    "SamplingSettings",
    "describe_prompts",
    "encode_prompts",
    "load_sampler_model",
    "model_name",
    "plan_batches",
    "prompts_digest",
    "read_prompts",
    "sample_answers",
    "sample_batches",
    "sample_with_journal",
    "sampling_backend",
]
