"""What models, their text and their training are, without torch: fields, run files, presets."""

from reformer.settings.base import Settings
from reformer.settings.model import RULE_VERSION, ModelSettings, check_rule_version

__all__ = ["RULE_VERSION", "ModelSettings", "Settings", "check_rule_version"]
