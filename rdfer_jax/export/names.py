"""Names that the files of an export and their readers share."""

#: Formats, and the files that they are.
FORMATS = {"stablehlo": "model.stablehlo", "onnx": "model.onnx"}
#: What the user of the files has to know.
CARD = "model.json"
#: Where the ONNX file keeps what is in model.json.
METADATA = "rdfer"
#: Name of the input.
INPUT = "frames"
