"""Files become text, plain data or tensors: every reader of diffsight opens its files here."""
