"""Files of weights in other formats, made into safetensors."""
