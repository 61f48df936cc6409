"""The RoPO adapter as a PEFT method; importing this package registers it."""

from ropo.adapter.config import RopoConfig
from ropo.adapter.layer import RopoLinear
from ropo.adapter.model import RopoModel
from ropo.adapter.register import register_method

register_method(RopoConfig, RopoModel)

__all__ = ["RopoConfig", "RopoLinear", "RopoModel"]
