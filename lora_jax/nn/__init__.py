"""What models are made of: the product, layers, attention and the scan over blocks."""
