"""The lab turns a run's specification into a record. It may import torch; the desk never does."""
