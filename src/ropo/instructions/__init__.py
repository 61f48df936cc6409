"""Instructions that a program can check: checkers, phrasings, and prompts made of them."""

from ropo.instructions.library import HELD_OUT_FAMILY, INSTRUCTIONS, Instruction
from ropo.instructions.prompts import generate_prompts
from ropo.instructions.records import check_instructions, satisfied

__all__ = ["HELD_OUT_FAMILY", "INSTRUCTIONS", "Instruction", "check_instructions", "generate_prompts", "satisfied"]
