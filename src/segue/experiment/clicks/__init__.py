"""Train and evaluate click-through models on tables of labeled examples."""
