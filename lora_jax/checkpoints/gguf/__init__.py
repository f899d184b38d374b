"""GGUF files: the container, the Llama family's names, the tokenizer."""
