"""What several models share: layers, cells, losses, negatives."""
