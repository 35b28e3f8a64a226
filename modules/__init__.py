"""Batches -> logits -> runs -> merged scores. Knows no raw format."""
