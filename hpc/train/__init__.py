"""Stage `train`: supervised fine-tuning with DeepSpeed; a Hugging Face model in, a Hugging Face model out."""

VERSION = 2
