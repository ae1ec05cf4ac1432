"""The closed list of post-processing steps that a generator package may name.

A new step is one file, its name in :data:`Step`, and one test.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .deblock import Deblock
from .smooth_latents import SmoothLatents
from .texture import Texture
from .tone import Tone

Step = Annotated[SmoothLatents | Deblock | Tone | Texture, Field(discriminator="step")]
