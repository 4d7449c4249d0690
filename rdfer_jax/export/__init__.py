"""A network as files that run without this package: StableHLO and ONNX."""
