"""Raw click log -> encoded data set -> batches. Knows no model."""
