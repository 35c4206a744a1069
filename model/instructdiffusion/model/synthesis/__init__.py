"""Composing triplets whose truth is known exactly, and filtering them."""
