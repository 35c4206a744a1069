"""The pipeline as one graph, its run on one machine, and the command `instructdiffusion`.

Steps import parts of this package in processes where pipelines can't be defined: nothing is imported here.
"""
