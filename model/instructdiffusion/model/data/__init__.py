"""Photographs, shards of triplets, and the latents made from them."""
