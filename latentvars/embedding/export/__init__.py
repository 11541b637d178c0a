"""Vectors in files: Parquet, safetensors, numpy, word2vec's text, AnnData."""
