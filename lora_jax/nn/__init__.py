"""What models are made of: layers, attention, the scan over blocks, the one product."""
