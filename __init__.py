"""The door through which ComfyUI will load this folder; the engine is `ssd_core`."""
