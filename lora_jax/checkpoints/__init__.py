"""Files of weights, a format in each module.

Read are safetensors, bitsandbytes' quantized weights in them, and GGUF; `placement` puts
what they hold where it belongs in a model. Written and read are `adapter`, the trainable
leaves after a training, and `training_state`, a training that is to be resumed.
"""
