"""Language models: the transformer, its weights and its tokenizer."""
