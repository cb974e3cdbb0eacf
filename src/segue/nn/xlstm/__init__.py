"""The xLSTM cells and blocks (Beck et al. 2024, arXiv:2405.04517)."""
