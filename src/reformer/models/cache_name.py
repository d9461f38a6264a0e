"""What transformers calls a cache: `past_key_values`, and from 5.24 on `cache`."""

from dataclasses import fields

from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"
"""The keyword of `generate` and the field of outputs; forwards of this library take `past_key_values` with all."""
