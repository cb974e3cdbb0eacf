"""Send runs to tracking tools: TensorBoard, MLflow, Weights & Biases.

One module per tool imports its client. Calls go through a background thread, so that a tool that fails or blocks does
not stop training.
"""
