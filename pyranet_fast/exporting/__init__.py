"""Files for other runtimes: what goes into them, how they are written, quantized and checked."""
