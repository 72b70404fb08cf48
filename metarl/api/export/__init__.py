"""Policies as files for a robot's computer: ONNX, torch.export, and one Python file that needs NumPy alone."""
