"""Training of hgrn_bit models from text, with PyTorch (the extra `train`)."""
