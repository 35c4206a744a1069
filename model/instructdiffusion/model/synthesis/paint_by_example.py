"""Paint by Example: a diffusion model that fills a hole with a thing that it is shown (Yang et al., CVPR 2023)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image as Pillow

from instructdiffusion.model.device import best
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics.networks import loaded, named
from instructdiffusion.model.synthesis.cutouts import Cutout
from instructdiffusion.model.synthesis.painters import Painter
from instructdiffusion.model.synthesis.regions import Region
from instructdiffusion.model.task import Image, Mask

STEPS, GUIDANCE = 50, 5.0  # what its authors sample with


class PaintByExample(Painter):
    """`pipeline` is diffusers' own; it works at the size that it was trained for. What fills the hole is a square's."""

    def __init__(self, pipeline: Any, name: str, steps: int = STEPS) -> None:
        self.pipeline, self.name, self.steps = pipeline, name, steps
        self.side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    @staticmethod
    def load(address: str) -> PaintByExample:
        """Load it from its folder or hub id; weights are read from safetensors, never from pickles.

        Raises:
            DataError: a part is missing or broken.
        """
        from diffusers import AutoencoderKL, PaintByExamplePipeline, PNDMScheduler, UNet2DConditionModel
        from transformers import CLIPImageProcessor

        # Part by part: diffusers no longer finds the image encoder by the name that the folder has for it.
        pipeline = PaintByExamplePipeline(
            vae=loaded(AutoencoderKL, address, subfolder="vae", use_safetensors=True),
            image_encoder=_image_encoder(address),
            unet=loaded(UNet2DConditionModel, address, subfolder="unet", use_safetensors=True),
            scheduler=loaded(PNDMScheduler, address, subfolder="scheduler"),
            safety_checker=None,
            feature_extractor=loaded(CLIPImageProcessor, address, subfolder="feature_extractor"),
        )
        pipeline.set_progress_bar_config(disable=True)
        return PaintByExample(pipeline.to(best()), f"paint-by-example:{named(address)}")

    def guess(self, region: Region, thing: Cutout, seed: int) -> tuple[Image, Mask]:
        hole = _box_around(region.grown)
        found = self.pipeline(
            example_image=Pillow.fromarray(thing.picture),
            image=Pillow.fromarray(region.picture).resize((self.side, self.side), Pillow.Resampling.LANCZOS),
            mask_image=Pillow.fromarray(hole).resize((self.side, self.side), Pillow.Resampling.NEAREST),
            num_inference_steps=self.steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(seed),  # of the CPU: the same noise on any machine
        ).images[0]
        return np.asarray(found.resize((region.side, region.side), Pillow.Resampling.LANCZOS), np.uint8), hole


def _image_encoder(address: str) -> Any:
    """What sees the thing; its weights are named as transformers 4 named them, or as 5 does.

    Raises:
        DataError: it is missing, or lacks a weight.
    """
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder

    names = {r"^model\.vision_model\.": "model."}
    options = {"subfolder": "image_encoder", "use_safetensors": True, "key_mapping": names, "output_loading_info": True}
    network, told = loaded(PaintByExampleImageEncoder, address, **options)
    if lacking := sorted(told["missing_keys"]):
        raise DataError(f"{address}: its image_encoder lacks {len(lacking)} weights, {lacking[0]} first; copy it again")
    return network.eval()


def _box_around(mask: Mask) -> Mask:
    """The box of a mask: it leaves the new thing a shape of its own, and is what the model was trained to fill."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = np.zeros_like(mask)
    box[top : top + height, left : left + width] = True
    return box
