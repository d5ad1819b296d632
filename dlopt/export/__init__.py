"""Files of a trained network for other programs: ONNX, torch.export and safetensors.

InferenceModule is the network with its preprocessing inside. A `Format` writes it into a file and runs the file again,
so that its outputs can be compared with those of the run's Predictor.
"""
