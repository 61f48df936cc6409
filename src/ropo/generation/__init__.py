"""Sample answers from a causal language model: batched, seeded, one run of the prompt for all its samples."""

from ropo.generation.batches import Answer, Batch, encode_prompts, load_sampler_model, plan_batches, sample_batches
from ropo.generation.journal import Journal
from ropo.generation.journalled import model_name, sample_with_journal
from ropo.generation.prompts import PromptRecord, read_prompts
from ropo.generation.sampler import Sampler
from ropo.generation.settings import SamplingSettings
from ropo.generation.vllm_sampler import sampling_backend

__all__ = [
    "Answer",
    "Batch",
    "Journal",
    "PromptRecord",
    "Sampler",
    "SamplingSettings",
    "encode_prompts",
    "load_sampler_model",
    "model_name",
    "plan_batches",
    "read_prompts",
    "sample_batches",
    "sample_with_journal",
    "sampling_backend",
]
