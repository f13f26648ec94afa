"""Models as ONNX files; needs the extra training[onnx]."""
