"""Read files as text, plain data or tensors. Every reader of diffsight opens its files here."""
