"""The lab turns a run spec into a record. It may import torch; the desk never does."""
